"""The clips of the panel "GenFusion": as rendered beside as repaired, playing or frame by frame, and a way to drop one.

The browser plays each clip by itself, as an animated picture that is sent once; no thread feeds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import viser
from jaxtyping import UInt8
from torch import Tensor

from genfusion_ns.fusion.panel.pictures import data_uri, panel_pictures, side_by_side
from genfusion_ns.fusion.panel.text import quoted
from genfusion_ns.fusion.rounds.generated_views import GeneratedView
from genfusion_ns.fusion.rounds.round import Round

_NONE: str = "none yet"


@dataclass(frozen=True)
class _Pictures:
    """A clip as the browser shows it, in data URIs."""

    animation: str
    frames: tuple[str, ...]

    @classmethod
    def of(cls, preview: UInt8[Tensor, "T H W 3"]) -> _Pictures:
        """Shrunk to the width of the panel."""
        images = panel_pictures(preview)
        return cls(data_uri(images), tuple(data_uri([image]) for image in images))


@dataclass(frozen=True)
class _Entry:
    """One line of the selector."""

    round: int
    clip: int
    held: bool
    """Training learns from it; False: it was rejected or dropped."""
    label: str
    """With the mean confidence of a clip that is held."""
    pictures: _Pictures | None
    """None: made before the run was resumed."""


class ClipBrowser:
    """The clips of the newest round and all older ones that training still learns from."""

    def __init__(self, gui: viser.GuiApi, drop: Callable[[int, int], None], folder: Path) -> None:
        """Build the controls where the caller's GUI context stands.

        Args:
            gui: of the viewer.
            drop: called with round and clip, on a thread of viser.
            folder: where the rounds write their reports.
        """
        self._gui = gui
        self._folder = folder
        self._latest: Round | None = None
        self._entries: dict[str, _Entry] = {}
        self._pictures: dict[tuple[int, int], _Pictures] = {}
        self._box = gui.add_folder("Clips")
        with self._box:
            self.shown: viser.GuiDropdownHandle[str] = gui.add_dropdown(
                "Clip", [_NONE], disabled=True, hint="In brackets: mean confidence, 0 to 1"
            )
            self.picture = gui.add_markdown("")
            self.play = gui.add_checkbox("Play", True, disabled=True, hint="Off: choose a frame")
            self.frame = self._frame_slider(1)
            self.drop = gui.add_button(
                "Drop clip",
                disabled=True,
                icon=viser.Icon.TRASH,
                color="red",
                hint="Training no longer learns from this clip",
            )
        self.shown.on_update(lambda _: self._draw())
        self.play.on_update(lambda _: self._draw())
        self.drop.on_click(lambda _: self._drop_chosen(drop))

    def _frame_slider(self, last: int, order: float | None = None) -> viser.GuiInputHandle[int]:
        slider = self._gui.add_slider("Frame", 0, last, 1, 0, visible=False, order=order)
        slider.on_update(lambda _: self._draw())
        return slider

    def _set_length(self, frames: int) -> None:
        """viser's sliders keep the range they were made with."""
        former = self.frame
        with self._box:
            self.frame = self._frame_slider(frames - 1, former.order)
        former.remove()

    def is_behind(self, latest: Round | None) -> bool:
        """Whether there is a newer round than the one shown."""
        return latest is not self._latest

    def update(self, views: Sequence[GeneratedView], latest: Round | None) -> None:
        """Offer the clips of these views and of the newest round; on the training thread."""
        confidences: dict[tuple[int, int], list[float]] = {}
        for view in views:
            confidences.setdefault((view.round, view.clip), []).append(float(view.confidence.float().mean()))
        labels = {key: f"{sum(values) / len(values):.2f}" for key, values in confidences.items()}
        pictures = self._pictures
        if latest is not None:
            for number, window in enumerate(latest.windows):
                key = latest.index, number
                labels.setdefault(key, "dropped" if window.rejected is None else "rejected")
                if self.is_behind(latest):
                    pictures[key] = _Pictures.of(window.preview())
        self._pictures = {key: pictures[key] for key in labels if key in pictures}
        entries = [
            _Entry(*key, key in confidences, f"Round {key[0]} clip {key[1]} ({labels[key]})", self._pictures.get(key))
            for key in sorted(labels, reverse=True)
        ]
        chosen = self._chosen()
        self._entries = {entry.label: entry for entry in entries}
        if latest is not None and self._latest is None:  # all clips of a run have the length of its repairer
            self._set_length(len(latest.windows[0].clip))
        self.shown.options = tuple(self._entries) or (_NONE,)
        same = [e.label for e in entries if chosen is not None and (e.round, e.clip) == (chosen.round, chosen.clip)]
        newest = [e.label for e in entries if latest is not None and e.round == latest.index][-1:]
        wanted = newest if self.is_behind(latest) else same
        if wanted and self.shown.value != wanted[0]:
            self.shown.value = wanted[0]
        self._latest = latest
        self._draw()

    def _chosen(self) -> _Entry | None:
        return self._entries.get(self.shown.value)

    def _drop_chosen(self, drop: Callable[[int, int], None]) -> None:
        entry = self._chosen()
        if entry is not None and entry.held:
            self.drop.disabled = True
            drop(entry.round, entry.clip)

    def _draw(self) -> None:
        entry = self._chosen()
        pictures = None if entry is None else entry.pictures
        self.shown.disabled = entry is None
        self.drop.disabled = entry is None or not entry.held
        self.play.disabled = pictures is None
        self.frame.visible = pictures is not None and not self.play.value
        if entry is None:
            self.picture.content = ""
        elif pictures is None:
            self.picture.content = quoted(f"Made before this run was resumed; see the report under {self._folder}.")
        else:
            still = pictures.frames[self.frame.value]
            self.picture.content = side_by_side(
                pictures.animation if self.play.value else still, "rendered", "repaired"
            )
