"""What nerfstudio's commands ask of the datamanagers that they were written for, answered by one of whole photos."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from nerfstudio.data.datamanagers.base_datamanager import DataManager, VanillaDataManager
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader


class RayDoors(VanillaDataManager):
    """A `VanillaDataManager` by type, because `ns-render spiral` looks for that class; it loads no rays."""

    def __init__(self) -> None:
        DataManager.__init__(self)

    # Cached, since nerfstudio's viewer reads every plain property.
    @cached_property
    def eval_dataloader(self) -> FixedIndicesEvalDataloader:  # type: ignore[override]
        """The held-out views one by one; `ns-render spiral` goes around the first."""
        return FixedIndicesEvalDataloader(self.eval_dataset, device=self.device)

    @cached_property
    def train_pixel_sampler(self) -> NoReturn:  # type: ignore[override]
        """What `ns-export pointcloud` and `poisson` draw their rays from.

        Raises:
            ValueError: always; there are no rays.
        """
        raise ValueError(
            "ns-export pointcloud and poisson sample rays of photos, and surfels are rendered from whole photos; "
            "gf-export points makes points with normals, gf-export splat or ns-export gaussian-splat write the surfels"
        )


class _OnlyPhoto(type(Path())):  # type: ignore[misc]
    """The path of a photo that is the only one of its split.

    `ns-render dataset` names its pictures by what photos have beyond the folder that they share, which of a single one
    is nothing.
    """

    def relative_to(self, *other: Any, **options: Any) -> Path:
        """As of any path, but relative to itself it is its name."""
        return Path(self.name) if other == (Path(self),) else super().relative_to(*other, **options)


def named_apart(files: Sequence[Path]) -> list[Path]:
    """The same files, as `ns-render dataset` can name its pictures after them."""
    return list(files) if len(files) != 1 else [_OnlyPhoto(files[0])]
