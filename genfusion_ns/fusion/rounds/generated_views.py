"""The generated views that training currently learns from, beside the photos.

Views are kept on the CPU in compact form (colours in 8 bits, disparity and confidence in half precision: 7 bytes per
pixel), in page-locked memory where there is a GPU, so that no step waits for its view. They are drawn epoch by epoch
without replacement. Each round's views are written once, to a file of their own that nothing changes afterwards; a
checkpoint records which of them are held, so that a resumed run draws the same views in the same order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float16, UInt8
from nerfstudio.cameras.cameras import Cameras
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from genfusion_ns.data.camera_conversion import viewmats_to_cameras
from genfusion_ns.errors import CheckpointError
from genfusion_ns.files import digest_of_file, write_atomically
from genfusion_ns.geometry.clips import RepairedClip

_FORMAT = "genfusion generated views 2"
_TENSORS = ("viewmat", "K", "rgb", "disparity", "confidence")


@dataclass(frozen=True)
class GeneratedView:
    """One frame of a repaired clip with its camera, in storage precision."""

    viewmat: Float[Tensor, "4 4"]
    """World-to-camera, OpenCV axes."""
    K: Float[Tensor, "3 3"]
    """Intrinsics in pixels of this H x W raster."""
    rgb: UInt8[Tensor, "H W 3"]
    """Colours, 0..255."""
    disparity: Float16[Tensor, "H W 1"]
    """Relative disparity in 0..1, known up to one scale and shift per clip; larger is nearer."""
    confidence: Float16[Tensor, "H W 1"]
    """Trust in each pixel, 0..1."""
    round: int
    """Fuse event that made it."""
    clip: int
    """Position of its clip within the round."""
    frame: int
    """Position within the clip."""

    def __post_init__(self) -> None:
        height, width = self.rgb.shape[:2]
        wanted = {
            "viewmat": ((4, 4), torch.float32),
            "K": ((3, 3), torch.float32),
            "rgb": ((height, width, 3), torch.uint8),
            "disparity": ((height, width, 1), torch.float16),
            "confidence": ((height, width, 1), torch.float16),
        }
        for name, (shape, dtype) in wanted.items():
            tensor = getattr(self, name)
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                raise ValueError(
                    f"{name} of a generated view is {tuple(tensor.shape)} {tensor.dtype}; needed: {shape} {dtype}."
                )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]

    def rgb_float(self) -> Float[Tensor, "H W 3"]:
        """Colours in 0..1."""
        return self.rgb.float() / 255

    def camera(self) -> Cameras:
        """Its camera as nerfstudio has it, in a batch of one."""
        return viewmats_to_cameras(self.viewmat[None], self.K[None], self.size)

    def to(self, device: torch.device | str) -> GeneratedView:
        """The same view on `device`; on the way to a GPU nothing waits."""
        on_the_way = torch.device(device).type != "cpu"  # what comes back is read at once, and has to be there
        return self._with(lambda tensor: tensor.to(device, non_blocking=on_the_way))

    def pinned(self) -> GeneratedView:
        """The same view in page-locked memory, if there is a GPU to send it to."""
        return self._with(Tensor.pin_memory) if torch.cuda.is_available() else self

    def _with(self, change: Callable[[Tensor], Tensor]) -> GeneratedView:
        changed = {name: change(getattr(self, name)) for name in _TENSORS}
        return GeneratedView(**changed, round=self.round, clip=self.clip, frame=self.frame)


def views_of_clip(
    repaired: RepairedClip,
    viewmats: Float[Tensor, "T 4 4"],
    Ks: Float[Tensor, "T 3 3"],
    round: int,
    clip: int,
    *,
    frames: Iterable[int] | None = None,
) -> list[GeneratedView]:
    """The frames of a repaired clip as generated views, on the CPU.

    Args:
        repaired: the clip; values beyond 0..1 are clamped.
        viewmats: its cameras, world-to-camera, OpenCV axes.
        Ks: intrinsics in pixels of the clip's raster.
        round: fuse event that made it.
        clip: position of the clip within the round.
        frames: frames to keep (neighbouring clips may share some); all by default.
    """
    clip_on_cpu = repaired.to("cpu")
    rgb = (clip_on_cpu.rgb.clamp(0, 1) * 255).round().to(torch.uint8)
    disparity, confidence = (x.clamp(0, 1).half() for x in (clip_on_cpu.disparity, clip_on_cpu.confidence))
    # Cloned, so that a view holds its own frame and not the whole clip in memory.
    return [
        GeneratedView(
            viewmat=viewmats[t].detach().float().cpu().clone(),
            K=Ks[t].detach().float().cpu().clone(),
            rgb=rgb[t].clone(),
            disparity=disparity[t].detach().clone(),
            confidence=confidence[t].detach().clone(),
            round=round,
            clip=clip,
            frame=t,
        )
        for t in (range(len(repaired)) if frames is None else frames)
    ]


def save_views(path: Path, views: Sequence[GeneratedView], what: str = "the generated views", way_out: str = "") -> str:
    """Write views to one file, completely or not at all; errors as in `write_atomically`.

    Returns:
        The SHA-256 of the file, for `load_views`.
    """
    tensors = {f"{i}.{name}": getattr(view, name).contiguous() for i, view in enumerate(views) for name in _TENSORS}
    about = [{"round": view.round, "clip": view.clip, "frame": view.frame} for view in views]
    content = to_safetensors(tensors, metadata={"store": json.dumps({"format": _FORMAT, "views": about})})
    write_atomically(path, content, what, way_out)
    return hashlib.sha256(content).hexdigest()


def load_views(path: Path, sha256: str | None = None) -> list[GeneratedView]:
    """Read views that `save_views` wrote.

    Args:
        path: the file.
        sha256: what `save_views` returned; any other content is refused.

    Raises:
        CheckpointError: missing, truncated or changed file, or not a file of generated views.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; it belongs to the checkpoint that is resumed.")
    if sha256 is not None and digest_of_file(path) != sha256:
        raise CheckpointError(f"{path} is damaged: it is not the file that the checkpoint was saved with.")
    try:
        with safe_open(str(path), framework="pt") as file:
            content = json.loads((file.metadata() or {}).get("store", "{}"))
            if content.get("format") == _FORMAT:
                return [
                    GeneratedView(**{name: file.get_tensor(f"{i}.{name}") for name in _TENSORS}, **about)
                    for i, about in enumerate(content["views"])
                ]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Delete it to have the round made anew.") from error
    raise CheckpointError(f"{path} holds no generated views (format {content.get('format')!r}, not {_FORMAT!r}).")


class GeneratedViewStore:
    """Generated views of the newest rounds and of pinned ones, drawn without replacement."""

    def __init__(self, keep_rounds: int = 1) -> None:
        """An empty store that keeps the views of the `keep_rounds` newest rounds (1 as in GenFusion)."""
        if keep_rounds < 1:
            raise ValueError(f"keep_rounds is {keep_rounds}; it must be 1 or more, or every view would be dropped.")
        self.keep_rounds = keep_rounds
        self._views: list[GeneratedView] = []
        self._queue: list[int] = []
        self._newest: list[int] = []
        self._pinned: set[int] = set()

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[GeneratedView]:
        return iter(self._views)

    def __getitem__(self, index: int) -> GeneratedView:
        return self._views[index]

    @property
    def rounds(self) -> list[int]:
        """Rounds that views are held of, ascending."""
        return sorted({view.round for view in self._views})

    @property
    def pinned(self) -> frozenset[int]:
        """Rounds that newer ones do not push out."""
        return frozenset(self._pinned)

    def replace(self, round: int, views: Sequence[GeneratedView], pin: bool = False) -> None:
        """Hold `views` as round `round`, instead of what was held of it, and drop what is too old.

        The current epoch of `sample` ends. A round without views counts as a round: it drops older ones too.

        Args:
            round: count of the round; what is held of newer ones that are not pinned is dropped.
            views: its views.
            pin: the round stays until it is dropped or replaced, whatever comes after it, and pushes nothing out.

        Raises:
            ValueError: a view belongs to another round.
        """
        _check_round(round, views)
        self._pinned = self._pinned - {round} | ({round} if pin else set())
        if not pin:
            self._newest = [*(r for r in self._newest if r < round), round][-self.keep_rounds :]
        held = self._pinned.union(self._newest) - {round}
        self._views = [*(view for view in self._views if view.round in held), *(view.pinned() for view in views)]
        self._queue = []

    def mend(self, round: int, views: Sequence[GeneratedView]) -> None:
        """Hold `views` of a round that is held or whose views were lost; all other rounds stay, newer ones too.

        The current epoch of `sample` ends.

        Raises:
            ValueError: a view belongs to another round.
        """
        _check_round(round, views)
        others = [view for view in self._views if view.round != round]
        self._views = sorted([*others, *(view.pinned() for view in views)], key=lambda view: view.round)
        self._queue = []

    def drop(self, round: int, clip: int | None = None) -> int:
        """Forget a clip of a round, or all of it; the rest of the epoch keeps its order. Returns the number dropped."""
        kept = [i for i, view in enumerate(self._views) if view.round != round or clip not in (None, view.clip)]
        dropped = len(self._views) - len(kept)
        new_index = {old: new for new, old in enumerate(kept)}
        self._views = [self._views[i] for i in kept]
        self._queue = [new_index[i] for i in self._queue if i in new_index]
        return dropped

    def sample(self, generator: torch.Generator) -> GeneratedView:
        """The next view of the current epoch, a random permutation; `generator` (on the CPU) draws each new epoch.

        Raises:
            IndexError: the store is empty.
        """
        if not self._views:
            raise IndexError("There is no generated view to sample; ask len() first.")
        if not self._queue:
            self._queue = torch.randperm(len(self._views), generator=generator).tolist()
        return self._views[self._queue.pop(0)]

    def state(self) -> dict[str, Any]:
        """Which views are held and in what order they are drawn; JSON-able, for `restore`."""
        return {
            "held": [[view.round, view.clip, view.frame] for view in self._views],
            "newest": list(self._newest),
            "pinned": sorted(self._pinned),
            "queue": list(self._queue),
        }

    def restore(self, state: dict[str, Any], views_of_round: Callable[[int], Iterable[GeneratedView]]) -> None:
        """Hold what `state` says, unless an error is raised.

        Args:
            state: of another store.
            views_of_round: all views that a round made.

        Raises:
            CheckpointError: a held view is missing, or the order of the epoch does not fit the views.
        """
        held = [(r, clip, frame) for r, clip, frame in state["held"]]
        known = {(v.round, v.clip, v.frame): v for r in sorted({key[0] for key in held}) for v in views_of_round(r)}
        missing = [key for key in held if key not in known]
        if missing:
            raise CheckpointError(f"Frame {missing[0][2]} of clip {missing[0][1]} of round {missing[0][0]} is missing.")
        queue = state["queue"]
        if len(set(queue)) != len(queue) or not all(0 <= i < len(held) for i in queue):
            raise CheckpointError(
                f"The view order {list(queue)[:8]} does not fit a store of {len(held)} generated views."
            )
        self._views, self._queue = [known[key].pinned() for key in held], list(queue)
        self._newest, self._pinned = list(state["newest"]), set(state["pinned"])


def _check_round(round: int, views: Sequence[GeneratedView]) -> None:
    strangers = {view.round for view in views} - {round}
    if strangers:
        raise ValueError(f"Views of round {sorted(strangers)} cannot be stored as round {round}.")
