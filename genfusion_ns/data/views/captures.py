"""Photos of captures as training samples: one to draw, and some of its neighbours to go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from genfusion_ns.data.camera_conversion import cameras_to_viewmats
from genfusion_ns.data.captures.capture import read_capture, whole_capture_config
from genfusion_ns.data.captures.formats import dataparser_of
from genfusion_ns.data.captures.image_files import CaptureError
from genfusion_ns.data.masking import MaskedDataset
from genfusion_ns.geometry.cameras import camera_centers, crop_intrinsics, resize_intrinsics
from genfusion_ns.geometry.clips import Clip, ClipPair, References
from genfusion_ns.geometry.images import WHOLLY_SEEN, resize_images, to_bytes
from genfusion_ns.seeds import generator_of, numbered_generator

NEIGHBOURS = 8
"""Nearest photos that those of a sample are drawn from."""
_LEAST_PHOTOS = 3
_HELD_OUT_EVERY = 10


@dataclass(frozen=True)
class PosedViews:
    """The middles of all photos of a capture, as large as the views that are drawn."""

    name: str
    """Of the capture."""
    rgb: UInt8[Tensor, "N H W 3"]
    """Black where a photo is hidden by a mask, or transparent."""
    seen: UInt8[Tensor, "N H W 1"]
    """255 where a photo shows something, else 0."""
    viewmats: Float[Tensor, "N 4 4"]
    Ks: Float[Tensor, "N 3 3"]
    """In pixels of the middles."""

    def __len__(self) -> int:
        return len(self.rgb)


def read_views(folder: Path, size: tuple[int, int]) -> PosedViews:
    """All photos of a capture in any format that runs read, undistorted.

    Args:
        folder: of the capture.
        size: (width, height) that the largest window of this shape in the middle of each photo is resampled to.

    Raises:
        CaptureError: a capture that cannot be used, or fewer photos than a sample needs.
    """
    parser = whole_capture_config(dataparser_of(folder)).setup()
    capture = read_capture(parser, parser.get_dataparser_outputs("train"))
    if len(capture.names) < _LEAST_PHOTOS:
        raise CaptureError(f"{folder} has {len(capture.names)} photos; at least {_LEAST_PHOTOS} are needed")
    photos = MaskedDataset(capture.outputs)
    photos.undistort()
    viewmats, Ks = cameras_to_viewmats(photos.cameras)
    images, masks, cameras = [], [], []
    for index, K in enumerate(Ks):
        data = photos.get_data(index, "uint8")
        image = data["image"].float() / 255
        alpha = image[..., 3:] if image.shape[-1] == 4 else torch.ones_like(image[..., :1])
        mask = data["mask"].float() if "mask" in data else torch.ones_like(alpha)
        cut, camera = _middle(torch.cat([image[..., :3] * alpha * mask, mask], dim=-1), K, size)
        images.append(to_bytes(cut[..., :3]))
        masks.append(to_bytes((cut[..., 3:] > WHOLLY_SEEN).float()))
        cameras.append(camera)
    return PosedViews(folder.resolve().name, torch.stack(images), torch.stack(masks), viewmats, torch.stack(cameras))


def _middle(image: Tensor, K: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    height, width = image.shape[:2]
    share = min(width / size[0], height / size[1])
    wide, high = max(1, round(size[0] * share)), max(1, round(size[1] * share))
    left, top = (width - wide) // 2, (height - high) // 2
    window = image[top : top + high, left : left + wide]
    K = resize_intrinsics(crop_intrinsics(K, left, top), (wide, high), size)
    return resize_images(window[None], size)[0].clamp(0, 1), K


def view_pair(views: PosedViews, target: int, chosen: Sequence[int]) -> ClipPair:
    """One photo to draw, without any render of it, and others to go by."""
    rgb = views.rgb[target : target + 1].float() / 255
    camera = (views.viewmats[target : target + 1], views.Ks[target : target + 1])
    nothing = torch.zeros_like(rgb[..., :1])
    photos = list(chosen)
    return ClipPair(
        Clip(torch.zeros_like(rgb), nothing, nothing, *camera),
        Clip(rgb, nothing, views.seen[target : target + 1].float() / 255, *camera),
        References(views.rgb[photos].float() / 255, views.viewmats[photos], views.Ks[photos], views.seen[photos] > 0),
        rendered=True,  # what a mask hides is not to be learned
    )


def neighbours(views: PosedViews, target: int, among: Sequence[int]) -> list[int]:
    """The photos nearest to one by the places of their cameras, itself aside, nearest first."""
    centers = camera_centers(views.viewmats)
    distances = (centers - centers[target]).norm(dim=-1)
    return sorted((photo for photo in among if photo != target), key=lambda photo: float(distances[photo]))


class CapturedViews(Dataset[list[ClipPair]]):
    """Batches of photos of captures; everything random in one follows from its number."""

    def __init__(
        self,
        captures: Sequence[PosedViews],
        references: tuple[int, int],
        *,
        batch_size: int,
        batches: int,
        seed: int,
        held_out: bool = True,
    ) -> None:
        """
        Args:
            captures: at least one.
            references: fewest and most photos of a sample.
            batch_size, batches: samples of a batch, and batches of the training.
            seed: of all that is random.
            held_out: every tenth photo of each capture is kept for validation, see `held_out_views`.
        """
        self.captures, self.references = captures, references
        self.batch_size, self.batches, self.seed = batch_size, batches, seed
        self.usable = [_training_views(views) if held_out else list(range(len(views))) for views in captures]

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> list[ClipPair]:
        low, high = self.references
        least = min(len(usable) for usable in self.usable) - 1
        count = min(int(torch.randint(low, high + 1, (), generator=numbered_generator(self.seed, index))), least)
        numbers = range(index * self.batch_size, (index + 1) * self.batch_size)
        return [self._sample(count, generator_of(self.seed, "captured view", number)) for number in numbers]

    def _sample(self, count: int, generator: torch.Generator) -> ClipPair:
        chosen = int(torch.randint(len(self.captures), (), generator=generator))
        views, usable = self.captures[chosen], self.usable[chosen]
        target = usable[int(torch.randint(len(usable), (), generator=generator))]
        near = neighbours(views, target, usable)[:NEIGHBOURS]
        drawn = torch.randperm(len(near), generator=generator)[:count].tolist()
        return view_pair(views, target, [near[i] for i in sorted(drawn)])


def held_out_views(views: PosedViews, count: int) -> list[ClipPair]:
    """The photos of a capture that are not trained on, each seen through the `count` nearest of the others."""
    usable = _training_views(views)
    targets = [photo for photo in range(len(views)) if photo not in set(usable)]
    return [view_pair(views, target, neighbours(views, target, usable)[:count]) for target in targets]


def _training_views(views: PosedViews) -> list[int]:
    middle = _HELD_OUT_EVERY // 2 if len(views) > _HELD_OUT_EVERY // 2 else len(views) // 2
    held_out = set(range(middle, len(views), _HELD_OUT_EVERY))
    return [photo for photo in range(len(views)) if photo not in held_out]
