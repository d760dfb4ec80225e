"""RGB-D clip pairs on disk, from which a generator is trained.

A data set is a folder of ``<name>.npz`` files, one clip pair each, with ``<name>.json`` beside it saying where the pair
comes from. Colours and coverage are stored as uint8 and depth as float16, in scene units; what was rendered as 8 bit
comes back exactly. The recipe (a reconstruction from part of the views, rendered along the capture and paired with the
capture) is that of GenFusion, section 4.1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import overload
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.geometry.cameras import Clip, References
from genfusion_ns.geometry.clip_pairs import ClipPair

_ARRAYS = (
    "artifact_rgb",
    "artifact_depth",
    "artifact_alpha",
    "clean_rgb",
    "clean_depth",
    "clean_alpha",
    "viewmats",
    "Ks",
    "reference_rgb",
    "reference_viewmats",
    "reference_Ks",
)
_MAX_HALF = 65504.0


@dataclass(frozen=True)
class Provenance:
    """Where a clip pair comes from."""

    capture: str
    """Name of the capture."""
    split: str
    """How the training views of the weak reconstruction were chosen."""
    seed: int
    """Seed of that reconstruction."""


def write_pair(folder: Path, name: str, pair: ClipPair, provenance: Provenance) -> Path:
    """Write one clip pair; an existing one of that name is replaced.

    Args:
        folder: the data set, made if needed.
        name: file name without ending.
        pair: artifact, clean clip (alpha: where its depth can be trusted) and candidate reference photos.
        provenance: written beside it.

    Returns:
        Path of the ``.npz`` file.

    Raises:
        ValueError: artifact and clean clip differ in shape or cameras.
    """
    artifact, clean = pair.artifact, pair.clean
    if artifact.rgb.shape != clean.rgb.shape:
        raise ValueError(f"{name}: artifact {tuple(artifact.rgb.shape)} and clean {tuple(clean.rgb.shape)} differ")
    if not (torch.allclose(artifact.viewmats, clean.viewmats) and torch.allclose(artifact.Ks, clean.Ks)):
        raise ValueError(f"{name}: artifact and clean clip are seen by different cameras")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.npz"
    partial = folder / f".{name}.partial.npz"
    np.savez_compressed(
        partial,
        artifact_rgb=_to_bytes(artifact.rgb),
        artifact_depth=_to_half(artifact.depth),
        artifact_alpha=_to_bytes(artifact.alpha),
        clean_rgb=_to_bytes(clean.rgb),
        clean_depth=_to_half(clean.depth),
        clean_alpha=_to_bytes(clean.alpha),
        viewmats=artifact.viewmats.cpu().numpy().astype(np.float32),
        Ks=artifact.Ks.cpu().numpy().astype(np.float32),
        reference_rgb=_to_bytes(pair.references.rgb),
        reference_viewmats=pair.references.viewmats.cpu().numpy().astype(np.float32),
        reference_Ks=pair.references.Ks.cpu().numpy().astype(np.float32),
    )
    path.with_suffix(".json").write_text(json.dumps(asdict(provenance), indent=2) + "\n")
    partial.replace(path)
    return path


def read_pair(path: Path) -> ClipPair:
    """Read one clip pair back.

    Raises:
        ValueError: the file is not a clip pair.
    """
    return unpack(read_packed(path))


def read_packed(path: Path) -> ClipPair:
    """A clip pair in its types on disk, a quarter of the memory; cut it before `unpack`. Errors as in `read_pair`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in _ARRAYS if name not in file]
            arrays = {} if missing else {name: torch.from_numpy(file[name]) for name in _ARRAYS}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a clip pair: {error}") from error
    if missing:
        raise ValueError(f"{path} is not a clip pair: it lacks {', '.join(missing)}; gf-make-clips writes such files")
    artifact, clean = (
        Clip(
            rgb=arrays[f"{kind}_rgb"],
            depth=arrays[f"{kind}_depth"],
            alpha=arrays[f"{kind}_alpha"],
            viewmats=arrays["viewmats"],
            Ks=arrays["Ks"],
        )
        for kind in ("artifact", "clean")
    )
    photos = References(arrays["reference_rgb"], arrays["reference_viewmats"], arrays["reference_Ks"])
    return ClipPair(artifact, clean, photos)


def unpack(pair: ClipPair) -> ClipPair:
    """uint8 to 0..1, half to single precision."""
    artifact, clean = (
        replace(clip, rgb=clip.rgb.float() / 255, depth=clip.depth.float(), alpha=clip.alpha.float() / 255)
        for clip in (pair.artifact, pair.clean)
    )
    return ClipPair(artifact, clean, replace(pair.references, rgb=pair.references.rgb.float() / 255))


def list_pairs(folder: Path) -> list[Path]:
    """The clip pairs of a folder, by name.

    Raises:
        FileNotFoundError: there are none.
    """
    paths = sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no clip pairs (*.npz); gf-make-clips writes them")
    return paths


def read_provenance(path: Path) -> Provenance:
    """Provenance of the pair at `path`; raises FileNotFoundError where its json is missing."""
    return Provenance(**json.loads(path.with_suffix(".json").read_text()))


class ClipFolder(Sequence[ClipPair]):
    """Clip pairs read from disk when asked for, whole and unchanged."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> ClipPair: ...

    @overload
    def __getitem__(self, index: slice) -> ClipFolder: ...

    def __getitem__(self, index: int | slice) -> ClipPair | ClipFolder:
        return ClipFolder(self.paths[index]) if isinstance(index, slice) else read_pair(self.paths[index])


def _to_bytes(values: Float[Tensor, "*shape"]) -> np.ndarray:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _to_half(values: Float[Tensor, "*shape"]) -> np.ndarray:
    return values.nan_to_num(0.0, 0.0, 0.0).clamp(0, _MAX_HALF).to(torch.float16).cpu().numpy()
