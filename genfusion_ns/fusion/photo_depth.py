"""Depth that an estimator reads off the train photos, as a loss on them, such as GenFusion's ``--mono_depth``.

It is estimated once, when a run begins, and lies in the folder of the run, so that a resumed run learns from the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Float16
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from genfusion_ns.files import copy_atomically, digest_of_file, write_atomically
from genfusion_ns.geometry.clips import SOLID_ALPHA
from genfusion_ns.geometry.images import WHOLLY_SEEN, fit_area, resize_images
from genfusion_ns.messages import say
from genfusion_ns.models.losses import disparity_loss
from genfusion_ns.priors.config import RepairerConfig, build_repairer, find_repairer
from genfusion_ns.priors.mono_depth import MonoDepth, RepairerMonoDepth
from genfusion_ns.seeds import seeded_generator
from genfusion_ns.stored_config import StoredConfig

if TYPE_CHECKING:
    from genfusion_ns.rendering.surfels import SurfelRender

FILE = "mono_depth.safetensors"
"""In the folder of a run."""
FLAG = "--pipeline.mono-depth"
_LARGEST = (960, 512)
"""Photos are read, and their depth is kept, at no more pixels than this has."""
_TAIL = 0.02
"""Share of the pixels at either end that do not count for the range of a photo's disparity."""


@dataclass
class MonoDepthConfig(StoredConfig):
    """Depth of the photos from a model, which the scene is held to while it trains."""

    model: str = "none"
    """none; repairer (the run's own where it makes depth, as GenFusion's --mono_depth); or a depth model of the
    transformers library: a folder, or a name on the Hugging Face hub such as depth-anything/Depth-Anything-V2-Small-hf,
    which is downloaded once."""
    weight: float = 1.0
    """Weight of the term beside that of the photo's colours. Disparities are compared, each photo's up to a scale and a
    shift of its own."""
    per_photo: bool = True
    """repairer: a clip for each photo alone, 16 times the work, as GenFusion does for photos that are far apart; False:
    neighbours share a clip."""

    def check(self, repairer: RepairerConfig, device: str) -> None:
        """Refuse, before photos are read, what could not be used.

        Raises:
            ValueError: a repairer that makes no depth, or a negative weight.
            FileNotFoundError: a model that is neither here nor a name on the hub, or a folder that lacks files.
        """
        if self.weight < 0:
            raise ValueError(f"{FLAG}.weight is {self.weight}; it must be at least 0")
        if self.model == "repairer":
            found = find_repairer(repairer, device)
            if not found.capabilities.makes_depth:
                raise ValueError(
                    f"{FLAG}.model repairer needs a repairer that makes depth of photos, which {found.kind} does not; "
                    "give a depth model of the transformers library, or none"
                )
        elif self.model != "none":
            from genfusion_ns.priors.mono_depth_transformers import check_depth_model

            check_depth_model(self.model)

    @property
    def active(self) -> bool:
        """Whether there is such a term."""
        return self.model != "none" and self.weight > 0

    def build(self, repairer: RepairerConfig, device: torch.device) -> MonoDepth:
        """The estimator.

        Raises:
            ImportError: transformers is not installed.
            FileNotFoundError: the model cannot be had.
            ValueError: its files are damaged or of an unknown kind.
        """
        if self.model == "repairer":
            return RepairerMonoDepth(build_repairer(repairer, device), self.per_photo)
        from genfusion_ns.priors.mono_depth_transformers import TransformersMonoDepth

        return TransformersMonoDepth(self.model, device)


@dataclass(frozen=True)
class PhotoDepth:
    """What an estimator says of one photo, in storage precision."""

    disparity: Float16[Tensor, "H W 1"]
    """Relative disparity, mostly in 0..1; larger is nearer."""
    confidence: Float16[Tensor, "H W 1"]
    """Trust per pixel in 0..1; 0 where a mask hides the photo."""


class PhotoDepths:
    """The estimated depth of all train photos, and the loss against it."""

    def __init__(self, photos: list[PhotoDepth], weight: float, digest: str) -> None:
        """
        Args:
            photos: in the order of the train views.
            weight: of the loss.
            digest: of the file that holds them.
        """
        self.photos = photos
        self.weight = weight
        self.digest = digest

    def losses(self, render: SurfelRender, view: int) -> dict[str, Tensor]:
        """The term ``mono_depth`` of a training render of a train view, of whatever size.

        Args:
            render: of the photo's camera.
            view: position among the train views.
        """
        device, height, width = render.depth.device, *render.depth.shape[1:3]
        photo = self.photos[view]
        images = torch.cat([photo.disparity, photo.confidence], dim=-1).to(device, non_blocking=True).float()
        if images.shape[:2] != (height, width):
            images = resize_images(images[None], (width, height))[0]
        covered = (render.alpha[0] > SOLID_ALPHA) & (render.depth[0] > 0)
        return {"mono_depth": self.weight * disparity_loss(render.depth[0], images[..., :1], covered, images[..., 1:])}


def photo_depths(
    config: MonoDepthConfig,
    repairer: RepairerConfig,
    photos: list[dict[str, Any]],
    names: tuple[str, ...],
    device: torch.device,
    folder: Path,
    earlier: tuple[Path, str] | None = None,
) -> PhotoDepths:
    """Estimate the depth of all photos and write it into the folder of the run, or take it over from an earlier part.

    Args:
        config: see `MonoDepthConfig`.
        repairer: of the run.
        photos: with ``image`` and perhaps ``mask``, as the datamanager holds them.
        names: of the train views.
        device: of the scene.
        folder: of the run.
        earlier: folder of the run that is resumed, and the digest that its checkpoint has of the file in it.

    Raises:
        ImportError, FileNotFoundError, ValueError: see `MonoDepthConfig.build`.
        WriteError: the folder cannot be written.
    """
    about = {"model": config.model, "names": list(names)}
    path = folder / FILE
    if earlier is not None and (known := _read(earlier[0] / FILE, earlier[1], about)) is not None:
        if (earlier[0] / FILE).resolve() != path.resolve():
            copy_atomically(earlier[0] / FILE, path, "the depth of the photos")
        return PhotoDepths(known, config.weight, earlier[1])
    if earlier is not None:
        say(
            f"{earlier[0] / FILE} is missing or not that of this run; the depth of the photos is estimated anew.",
            "yellow",
        )
    estimator = config.build(repairer, device)
    say(f"Depth of {len(photos)} photos: {estimator.name}")
    found = _estimated(estimator, photos, device, together=config.model == "repairer" and not config.per_photo)
    if isinstance(estimator, RepairerMonoDepth):
        estimator.repairer.release()
    tensors = {f"{i}.{name}": value for i, photo in enumerate(found) for name, value in vars(photo).items()}
    content = to_safetensors(tensors, metadata={"about": json.dumps(about)})
    write_atomically(path, content, "the depth of the photos")
    return PhotoDepths([_pinned(photo) for photo in found], config.weight, digest_of_file(path))


@torch.no_grad()
def _estimated(
    estimator: MonoDepth, photos: list[dict[str, Any]], device: torch.device, together: bool
) -> list[PhotoDepth]:
    """The depth of each photo; `together`: photos of one size are shown to the estimator in one call."""
    generator = seeded_generator(0)
    prepared = [_prepared(photo) for photo in photos]
    groups: dict[Any, list[int]] = {}
    for index, (image, _) in enumerate(prepared):
        groups.setdefault(image.shape if together else index, []).append(index)
    found: dict[int, PhotoDepth] = {}
    for group in groups.values():
        made = estimator.estimate(torch.stack([prepared[index][0] for index in group]).to(device), generator)
        for index, disparity, confidence in zip(group, made.disparity.cpu(), made.confidence.cpu(), strict=True):
            trusted = confidence * prepared[index][1]
            unit, spread = _in_unit_range(disparity, trusted)
            found[index] = PhotoDepth(unit.half(), (trusted * (spread > 0)).half())
    return [found[index] for index in range(len(photos))]


def _prepared(photo: dict[str, Any]) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W 1"]]:
    """A photo at the size at which it is read, and 1 where it shows something; on the CPU."""
    image = photo["image"].cpu()
    image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    size = fit_area((image.shape[1], image.shape[0]), _LARGEST)
    image = resize_images(image[None], size)[0].clamp(0, 1)
    seen = torch.ones_like(image[..., :1])
    if "mask" in photo:
        seen = (resize_images(photo["mask"].cpu().float()[None], size)[0] > WHOLLY_SEEN).float()
    if image.shape[-1] == 4:
        seen = seen * (image[..., 3:] > SOLID_ALPHA)
        image = image[..., :3] * image[..., 3:]
    return image, seen


def _in_unit_range(
    disparity: Float[Tensor, "H W 1"], confidence: Float[Tensor, "H W 1"]
) -> tuple[Float[Tensor, "H W 1"], Float[Tensor, ""]]:
    """Disparity whose trusted values mostly lie between 0 and 1, for models have units of their own; and its spread."""
    trusted = disparity[confidence > 0]
    if trusted.numel() == 0:
        return torch.zeros_like(disparity), disparity.new_zeros(())
    low, high = torch.quantile(trusted.float(), torch.tensor([_TAIL, 1 - _TAIL]))
    spread = high - low
    unit = (disparity - low) / torch.where(spread > 0, spread, 1.0)
    return unit.clamp(-1, 2), spread


def _read(path: Path, digest: str, about: dict[str, Any]) -> list[PhotoDepth] | None:
    """What `photo_depths` wrote about these photos with this model; None where the file is another or none."""
    if not path.is_file() or digest_of_file(path) != digest:
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            if json.loads((file.metadata() or {}).get("about", "null")) != about:
                return None
            fields = ("disparity", "confidence")
            return [
                _pinned(PhotoDepth(**{name: file.get_tensor(f"{i}.{name}") for name in fields}))
                for i in range(len(about["names"]))
            ]
    except (SafetensorError, OSError, ValueError, KeyError):
        return None


def _pinned(photo: PhotoDepth) -> PhotoDepth:
    """In page-locked memory, if there is a GPU to send it to."""
    if not torch.cuda.is_available():
        return photo
    return PhotoDepth(photo.disparity.pin_memory(), photo.confidence.pin_memory())
