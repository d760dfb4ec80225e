"""RGB-D clip pairs on disk, and the augmented samples a generator is trained on.

A data set is a folder of ``<name>.npz`` files, one clip pair each, with ``<name>.json`` beside it saying where the pair
comes from. Colours and coverage are stored as uint8 and depth as float16, in scene units; what was rendered as 8 bit
comes back exactly. The recipe (a reconstruction from part of the views, rendered along the capture and paired with the
capture) is that of GenFusion, section 4.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import overload
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from genfusion_ns.geometry.cameras import Clip, References
from genfusion_ns.geometry.clip_pairs import (
    ClipPair,
    crop_clip,
    mirror_clip,
    mirror_references,
    select_frames,
    select_references,
)

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
    return _unpack(_read_packed(path))


def _read_packed(path: Path) -> ClipPair:
    """A clip pair in its types on disk, a quarter of the memory."""
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


def _unpack(pair: ClipPair) -> ClipPair:
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


@dataclass
class AugmentationConfig:
    """What a training sample may look like, compared with its clip on disk."""

    crop: tuple[int, int] = (128, 96)
    """Width and height in pixels of the random crop window; clips that are smaller are taken whole."""
    frames: int = 8
    """Consecutive frames of a sample."""
    references: tuple[int, int] = (1, 4)
    """Fewest and most reference photos of a sample."""
    mirror: float = 0.5
    """Probability of reflecting scene and images left to right."""
    reverse: float = 0.5
    """Probability of playing the clip backwards."""
    colour_jitter: float = 0.15
    """Largest change of gain, gamma and offset, the same for artifact, clean clip and photos; 0 for none."""
    degrade: float = 0.05
    """Probability of replacing the artifact clip by a synthetic degradation of the clean clip."""


@dataclass(frozen=True)
class ClipSource:
    """Clip pairs that are drawn from with a common probability."""

    paths: list[Path]
    """At least one."""
    share: float
    """Relative probability of this source."""


class ClipDataset(Dataset[list[ClipPair]]):
    """A stream of augmented batches: item i is the i-th batch, the same whenever and wherever it is asked for.

    The batches depend on the seed and their index alone, so that a resumed training sees what it would have seen.
    All samples of a batch agree in frames and number of photos, and in size where every clip exceeds the crop window.
    """

    def __init__(
        self,
        sources: list[ClipSource],
        augmentation: AugmentationConfig,
        batch_size: int,
        batches: int,
        seed: int,
        degrade: Callable[[ClipPair, torch.Generator], ClipPair] | None = None,
    ) -> None:
        """
        Args:
            sources: clip pairs to draw from, with replacement.
            augmentation: see `AugmentationConfig`.
            batch_size: samples per batch.
            batches: length of the stream.
            seed: source of all choices.
            degrade: synthetic degradation, drawn with probability ``augmentation.degrade``.

        Raises:
            ValueError: a source is empty, or no source can be drawn.
        """
        if not sources or any(not source.paths for source in sources) or sum(s.share for s in sources) <= 0:
            raise ValueError(
                "a clip data set needs sources of at least one clip pair each, with a positive total share"
            )
        self.sources = sources
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self.degrade = degrade
        self._packed: dict[Path, ClipPair] = {}

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> list[ClipPair]:
        if not 0 <= index < self.batches:
            raise IndexError(f"batch {index} of a stream of {self.batches}")
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + index) % 2**63)
        count = _draw(*self.augmentation.references, generator)
        return [self._sample(count, generator) for _ in range(self.batch_size)]

    def _sample(self, count: int, generator: torch.Generator) -> ClipPair:
        shares = torch.tensor([source.share for source in self.sources])
        paths = self.sources[int(torch.multinomial(shares, 1, generator=generator))].paths
        pair = augment(self._read(paths[_draw(0, len(paths) - 1, generator)]), self.augmentation, count, generator)
        if self.degrade is not None and _chance(self.augmentation.degrade, generator):
            pair = self.degrade(pair, generator)
        return pair

    def _read(self, path: Path) -> ClipPair:
        if path not in self._packed:
            self._packed[path] = _read_packed(path)
        return self._packed[path]


def augment(pair: ClipPair, config: AugmentationConfig, count: int, generator: torch.Generator) -> ClipPair:
    """A random part of a packed clip pair, seen through `count` photos; photos repeat where the pair has fewer."""
    pair = _unpack(_cut(pair, config, generator))
    order = torch.randperm(len(pair.references), generator=generator)
    references = select_references(pair.references, order.repeat(-(-count // len(order)))[:count])
    artifact, clean = pair.artifact, pair.clean
    if _chance(config.reverse, generator):
        backwards = torch.arange(len(artifact) - 1, -1, -1)
        artifact, clean = select_frames(artifact, backwards), select_frames(clean, backwards)
    if _chance(config.mirror, generator):
        artifact, clean, references = mirror_clip(artifact), mirror_clip(clean), mirror_references(references)
    return _jitter(ClipPair(artifact, clean, references), config.colour_jitter, generator)


def _cut(pair: ClipPair, config: AugmentationConfig, generator: torch.Generator) -> ClipPair:
    width, height = (min(a, b) for a, b in zip(config.crop, pair.artifact.size, strict=True))
    frames = min(config.frames, len(pair.artifact))
    first = _draw(0, len(pair.artifact) - frames, generator)
    x = _draw(0, pair.artifact.size[0] - width, generator)
    y = _draw(0, pair.artifact.size[1] - height, generator)
    window = slice(first, first + frames)
    artifact, clean = (
        crop_clip(select_frames(clip, window), x, y, width, height) for clip in (pair.artifact, pair.clean)
    )
    return ClipPair(artifact, clean, pair.references)


def _jitter(pair: ClipPair, strength: float, generator: torch.Generator) -> ClipPair:
    """Gain and offset per colour channel and one gamma, drawn once for the whole pair."""
    if strength == 0:
        return pair
    draw = (2 * torch.rand(7, generator=generator) - 1) * strength
    gain, offset, gamma = 1 + draw[:3], draw[3:6] / 3, torch.exp(draw[6])

    def change(rgb: Tensor) -> Tensor:
        return (rgb.clamp(min=1e-6) ** gamma.to(rgb) * gain.to(rgb) + offset.to(rgb)).clamp(0, 1)

    artifact, clean, photos = pair.artifact, pair.clean, pair.references
    return ClipPair(
        replace(artifact, rgb=change(artifact.rgb)),
        replace(clean, rgb=change(clean.rgb)),
        replace(photos, rgb=change(photos.rgb)),
    )


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number in low..high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _chance(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _to_bytes(values: Float[Tensor, "*shape"]) -> np.ndarray:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _to_half(values: Float[Tensor, "*shape"]) -> np.ndarray:
    return values.nan_to_num(0.0, 0.0, 0.0).clamp(0, _MAX_HALF).to(torch.float16).cpu().numpy()
