"""RGB-D clip pairs on disk, from which a generator is trained.

A pair is a group of arrays (an npz archive, compressed without loss) and a JSON text that says where it comes from and
what the arrays mean. `gf-make-clips` writes pairs into shards, see `clip_shards`; single pairs may also be files of
their own, ``<name>.npz`` with ``<name>.json`` beside it. Either way a pair is named by one path.
Colours and coverage are stored in 8 bits, normals in signed 8 bits and depth in half precision; what was rendered as
8 bit comes back exactly. The recipe (a reconstruction from part of the views, rendered along the capture and paired
with the capture) is that of GenFusion, section 4.1.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from genfusion_ns.data.array_files import ArrayFileError, ArrayLayout, read_arrays
from genfusion_ns.data.clips.shards import RECORD, finished_shards, is_sample, read_member, sample_paths
from genfusion_ns.files import write_atomically
from genfusion_ns.geometry.clips import Clip, ClipPair, References, camera_problem
from genfusion_ns.geometry.images import to_bytes
from genfusion_ns.json_files import parse_json, read_json

ARRAYS = {
    "artifact_rgb": "uint8 [T, H, W, 3]: frames of the weak reconstruction, 0..255",
    "artifact_depth": "float16 [T, H, W, 1]: their z depth in scene units",
    "artifact_alpha": "uint8 [T, H, W, 1]: their accumulated opacity, 0..255",
    "clean_rgb": "uint8 [T, H, W, 3]: the same cameras as they should look",
    "clean_depth": "float16 [T, H, W, 1]: z depth of the reconstruction from all views",
    "clean_alpha": "uint8 [T, H, W, 1]: 255 where the clean depth (and colour, if it is rendered) can be trusted: "
    "covered by the reconstruction and, if the colour is rendered, confirmed by a photo",
    "viewmats": "float32 [T, 4, 4]: world to camera, OpenCV axes (x right, y down, z forward)",
    "Ks": "float32 [T, 3, 3]: intrinsics in pixels; the first pixel's centre is at (0.5, 0.5)",
    "reference_rgb": "uint8 [R, h, w, 3]: photos that the weak reconstruction was made from",
    "reference_viewmats": "float32 [R, 4, 4]: as viewmats",
    "reference_Ks": "float32 [R, 3, 3]: as Ks, in pixels of the photos",
}
"""What the arrays of every pair mean."""
EXTRAS = {
    "artifact_normals": "int8 [T, H, W, 3]: unit world normals times 127, 0 where nothing was rendered",
    "reference_seen": "bool [R, h, w, 1]: the part of each photo that the weak reconstruction could see",
}
"""Arrays that some pairs have."""
_MAX_HALF = 65504.0
_LARGEST_ARRAY = 2**31
"""Bytes of an array that are still taken for a clip."""
_MAKE_AGAIN = "Copy it again, or make the clips again."


class ClipPairError(ValueError):
    """A file that is no clip pair, or one that nothing can be learned from; the message names it."""


@dataclass(frozen=True)
class Provenance:
    """Where a clip pair comes from."""

    capture: str
    """Name of the capture."""
    split: str
    """How the training views of the weak reconstruction were chosen."""
    seed: int
    """Seed of that reconstruction."""
    stage: float | None = None
    """Share of the weak run after which the artifact clip was rendered."""
    path: str = "capture"
    """The cameras: "capture", those of the photos, or "perturbed" and a number."""
    clean: Literal["photo", "render"] = "photo"
    """What the clean colours are: photos, or renders of the reconstruction from all views."""
    train_views: tuple[str, ...] = ()
    """Photos that the weak reconstruction was made from."""
    frames: tuple[str, ...] = ()
    """Photo of each frame; empty where the frames have none."""
    references: tuple[str, ...] = ()
    """Photo of each reference."""
    psnr: float | None = None
    """Of the artifact against the clean colours, over the whole clip, in dB."""


def write_pair(folder: Path, name: str, pair: ClipPair, provenance: Provenance) -> Path:
    """Write one clip pair as a file of its own; an existing one of that name is replaced.

    Args:
        folder: the data set, made if needed.
        name: file name without ending.
        pair: artifact, clean clip (alpha: where its depth can be trusted) and candidate reference photos.
        provenance: written beside it.

    Returns:
        Path of the ``.npz`` file.

    Raises:
        ValueError: artifact and clean clip differ in shape or cameras, or a camera is not rigid or not finite.
    """
    members = pack(name, pair, provenance)
    path = folder / f"{name}.npz"
    write_atomically(path.with_suffix(".json"), members["json"])
    write_atomically(path, members["npz"])  # last: the pair is there with it
    return path


def pack(name: str, pair: ClipPair, provenance: Provenance) -> dict[str, bytes]:
    """Contents of the members of one pair, by file name ending; see `write_pair` for arguments and errors."""
    artifact, clean, photos = pair.artifact, pair.clean, pair.references
    if artifact.rgb.shape != clean.rgb.shape:
        raise ValueError(f"{name}: artifact {tuple(artifact.rgb.shape)} and clean {tuple(clean.rgb.shape)} differ")
    problem = camera_problem(pair)
    if problem is not None:
        raise ClipPairError(f"{name}: {problem}")
    if not (torch.allclose(artifact.viewmats, clean.viewmats) and torch.allclose(artifact.Ks, clean.Ks)):
        raise ValueError(f"{name}: artifact and clean clip are seen by different cameras")
    arrays = {
        "artifact_rgb": to_bytes(artifact.rgb).numpy(),
        "artifact_depth": _to_half(artifact.depth),
        "artifact_alpha": to_bytes(artifact.alpha).numpy(),
        "clean_rgb": to_bytes(clean.rgb).numpy(),
        "clean_depth": _to_half(clean.depth),
        "clean_alpha": to_bytes(clean.alpha).numpy(),
        "viewmats": artifact.viewmats.cpu().numpy().astype(np.float32),
        "Ks": artifact.Ks.cpu().numpy().astype(np.float32),
        "reference_rgb": to_bytes(photos.rgb).numpy(),
        "reference_viewmats": photos.viewmats.cpu().numpy().astype(np.float32),
        "reference_Ks": photos.Ks.cpu().numpy().astype(np.float32),
    }
    if artifact.normals is not None:
        normals = artifact.normals.nan_to_num(0.0).clamp(-1, 1) * 127
        arrays["artifact_normals"] = normals.round().to(torch.int8).cpu().numpy()
    if photos.seen is not None:
        arrays["reference_seen"] = photos.seen.cpu().numpy()
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    meaning = {key: text for key, text in (ARRAYS | EXTRAS).items() if key in arrays}
    text = json.dumps({**asdict(provenance), "arrays": meaning}, indent=2)
    return {"npz": content.getvalue(), "json": (text + "\n").encode()}


def read_pair(path: Path, normals: bool = False) -> ClipPair:
    """Read one clip pair back.

    Raises:
        ValueError: the file is not a clip pair.
    """
    return unpack(read_packed(path, normals))


def read_packed(path: Path, normals: bool = False) -> ClipPair:
    """A clip pair in its types on disk, a quarter of the memory; cut it before `unpack`.

    Args:
        path: as `list_pairs` gives it.
        normals: read those of the artifact clip too, where they are stored.

    Raises:
        ValueError: the file is not a clip pair, or damaged; the message names it.
    """
    wanted = [*ARRAYS, "reference_seen", *(["artifact_normals"] if normals else [])]
    source = io.BytesIO(read_member(path, "npz")) if is_sample(path) else path
    try:
        read = read_arrays(source, wanted, check=lambda layouts: _check_layouts(path, layouts))
    except ArrayFileError as error:
        raise ClipPairError(f"{path} cannot be read as a clip pair: {error}") from error
    arrays = {name: torch.from_numpy(array) for name, array in read.items()}
    artifact, clean = (
        Clip(
            rgb=arrays[f"{kind}_rgb"],
            depth=arrays[f"{kind}_depth"],
            alpha=arrays[f"{kind}_alpha"],
            viewmats=arrays["viewmats"],
            Ks=arrays["Ks"],
            normals=arrays.get(f"{kind}_normals"),
        )
        for kind in ("artifact", "clean")
    )
    rgb, viewmats, Ks = (arrays[f"reference_{name}"] for name in ("rgb", "viewmats", "Ks"))
    rendered = is_sample(path) and read_provenance(path).clean == "render"
    pair = ClipPair(artifact, clean, References(rgb, viewmats, Ks, arrays.get("reference_seen")), rendered)
    problem = camera_problem(pair) or _depth_problem(pair)
    if problem is not None:
        raise ClipPairError(f"{path}: {problem}; leave the clip out, or make it again")
    return pair


def _depth_problem(pair: ClipPair) -> str | None:
    for name, clip in (("artifact", pair.artifact), ("clean", pair.clean)):
        if not bool((torch.isfinite(clip.depth) & (clip.depth >= 0)).all()):
            return f"{name}_depth has values that are negative or not finite"
    return None


def _check_layouts(path: Path, layouts: Mapping[str, ArrayLayout]) -> None:
    """Refuse arrays that are not what `ARRAYS` says, before they are read."""
    missing = [name for name in ARRAYS if name not in layouts]
    if missing:
        raise ClipPairError(
            f"{path} is not a clip pair: it lacks {', '.join(missing)}; gf-make-clips writes such files"
        )
    sizes: dict[str, int] = {}
    for name, layout in layouts.items():
        kind, sides = _meaning(name)
        fits = layout.dtype == np.dtype(kind) and len(layout.shape) == len(sides) and layout.nbytes <= _LARGEST_ARRAY
        for side, size in zip(sides, layout.shape, strict=fits):
            fits &= size == (int(side) if side.isdecimal() else sizes.setdefault(side, size)) and size > 0
        if not fits:
            known = ", ".join(f"{side} = {size}" for side, size in sizes.items())
            raise ClipPairError(
                f"{path} is not a clip pair: {name} is {layout.dtype} {list(layout.shape)}; needed is {kind} "
                f"[{', '.join(sides)}] with {known} as in the arrays before it and at most {_LARGEST_ARRAY:,} bytes"
            )


def _meaning(name: str) -> tuple[str, list[str]]:
    """Type and sides of an array, by its description."""
    kind, _, rest = (ARRAYS | EXTRAS)[name].partition(" [")
    return kind, rest.partition("]")[0].split(", ")


def unpack(pair: ClipPair) -> ClipPair:
    """uint8 to 0..1, signed bytes to -1..1, half to single precision."""
    artifact, clean = (
        replace(
            clip,
            rgb=clip.rgb.float() / 255,
            depth=clip.depth.float(),
            alpha=clip.alpha.float() / 255,
            normals=None if clip.normals is None else clip.normals.float() / 127,
        )
        for clip in (pair.artifact, pair.clean)
    )
    photos = replace(pair.references, rgb=pair.references.rgb.float() / 255)
    return replace(pair, artifact=artifact, clean=clean, references=photos)


def is_pair(path: Path) -> bool:
    """Whether `path` names a pair, in a shard or as a file of its own."""
    return is_sample(path) or (path.suffix == ".npz" and path.is_file())


def list_pairs(folder: Path) -> list[Path]:
    """The clip pairs of a data set: those in the shards of its finished jobs, then those that are files of their own.

    Args:
        folder: of the data set, or of one job in it.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a shard is missing or damaged; the message names it.
    """
    jobs = sorted(path.parent for path in (*folder.glob(RECORD), *folder.glob(f"*/{RECORD}")))
    jobs = [job for job in jobs if not job.name.startswith(".")]
    paths = [pair for job in jobs for shard in finished_shards(job) for pair in sample_paths(shard)]
    paths += sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no clip pairs (finished jobs with shards, or *.npz); gf-make-clips writes them"
        )
    return paths


def read_provenance(path: Path) -> Provenance:
    """Provenance of the pair at `path`.

    Raises:
        FileNotFoundError: its json is missing.
        ValueError: it is damaged; the message names it.
    """
    if is_sample(path):
        content = parse_json(read_member(path, "json"), f"{path}.json", _MAKE_AGAIN)
    else:
        file = path.with_suffix(".json")
        if not file.is_file():
            raise FileNotFoundError(f"{file}, which says where {path.name} comes from, is missing")
        content = read_json(file, _MAKE_AGAIN)
    stage, path_name, clean, psnr = (content[key] for key in ("stage", "path", "clean", "psnr"))
    names = {
        key: tuple(entry.text() for entry in content[key].entries()) if content[key].is_given else ()
        for key in ("train_views", "frames", "references")
    }
    return Provenance(
        capture=content["capture"].text(),
        split=content["split"].text(),
        seed=content["seed"].whole("a seed", -(2**63), 2**63),
        stage=stage.number() if stage.is_given else None,
        path=path_name.text() if path_name.is_given else "capture",
        clean="render" if clean.is_given and clean.choice(("photo", "render")) == "render" else "photo",
        psnr=psnr.number() if psnr.is_given else None,
        **names,
    )


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


def _to_half(values: Float[Tensor, "*shape"]) -> np.ndarray:
    return values.nan_to_num(0.0, 0.0, 0.0).clamp(0, _MAX_HALF).to(torch.float16).cpu().numpy()
