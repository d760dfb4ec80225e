"""The panel "Samples" of the training viewer: the latest sample beside its render, and a way to pause them.

The training thread calls `after_step` and `finish`; viser's threads only set the flag of the supervision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import viser
from nerfstudio.engine.trainer import Trainer
from nerfstudio.viewer.viewer import Viewer

from genfusion_ns.errors import message_of
from genfusion_ns.fusion.panel.pictures import data_uri, panel_pictures, side_by_side
from genfusion_ns.fusion.panel.text import table
from genfusion_ns.fusion.samples.sample import Sample, WatchedSamples
from genfusion_ns.geometry.images import to_bytes
from genfusion_ns.messages import say

_EVERY = 10
"""Steps between looks at the samples."""


class SamplePanel:
    """What samples look like, and whether there are any. The same without a viewer: `pipeline.supervision.paused`."""

    def __init__(
        self,
        server: viser.ViserServer,
        supervision: WatchedSamples,
        training_state: Callable[[], str],
        *,
        step: int = 0,
        order: float | None = None,
    ) -> None:
        """Build the panel.

        Args:
            server: of the viewer.
            supervision: of the run.
            training_state: tells "training", "paused" or "completed".
            step: the first of the run.
            order: place among the elements of the sidebar, smaller is higher; None: below all others.
        """
        self._supervision, self._training_state = supervision, training_state
        self._shown: Sample | None = None
        self._step = step
        self._failed = False
        gui = server.gui
        with gui.add_folder("Samples", order=order):
            self.text = gui.add_markdown("")
            self.pause = gui.add_checkbox(
                "Pause samples", supervision.paused, hint="Training goes on with the photos alone"
            )
            self.picture = gui.add_markdown("")
        self.pause.on_update(lambda _: self._set_pause())
        self._show(step)

    def after_step(self, step: int) -> None:
        """Show the latest sample, from time to time."""
        if step % _EVERY == 0:
            self.refresh(step + 1)

    def finish(self, step: int) -> None:
        """Training is over: show the last sample, and that there will be no other."""
        self.refresh(step + 1)
        self.pause.disabled = True

    def refresh(self, step: int) -> None:
        """Show the state before this step; a panel that cannot be drawn is not drawn again, and training goes on."""
        if self._failed:
            return
        try:
            self._show(step)
        except Exception as error:  # whatever a viewer or its connection has, the run must not end for it
            self._failed = True
            say(f'The panel "Samples" of the viewer stops, training goes on: {message_of(error)}', "yellow")

    def redraw(self) -> None:
        """Say what samples do now; any thread may call."""
        content = self._describe()
        if content != self.text.content:
            self.text.content = content

    def _show(self, step: int) -> None:
        self._step = step
        if self.pause.value != self._supervision.paused:
            self.pause.value = self._supervision.paused
        sample = self._supervision.latest
        if sample is not self._shown and sample is not None and sample.rendered is not None:
            pair = to_bytes(torch.cat([sample.rendered, sample.target], dim=1).cpu())
            self.picture.content = side_by_side(data_uri(panel_pictures(pair[None])), "rendered", "sampled")
            self._shown = sample
        self.redraw()

    def _describe(self) -> str:
        schedule, sample = self._supervision.schedule, self._supervision.latest
        rows = [
            ("Prior", self._supervision.prior.name),
            ("Weight", f"{schedule.weight_at(self._step):.3f}, levels {schedule.least_level(self._step):.2f} to 1"),
        ]
        if self._training_state() == "completed":
            rows.append(("Now", "training is complete"))
        elif self._supervision.paused:
            rows.append(("Now", "paused: only photos supervise"))
        if sample is not None:
            rows.append(("Latest", f"before step {sample.step}, from level {sample.level:.2f}"))
        return table(rows)

    def _set_pause(self) -> None:
        self._supervision.paused = self.pause.value
        self.redraw()


def attach_panel(trainer: Trainer, supervision: WatchedSamples) -> SamplePanel | None:
    """The panel in the trainer's viewer, above its tabs; None without a viewer and in the legacy one."""
    viewer = trainer.viewer_state
    if not isinstance(viewer, Viewer):
        return None
    panel = SamplePanel(
        viewer.viser_server,
        supervision,
        lambda: trainer.training_state,
        step=trainer._start_step,
        order=viewer.stats_markdown.order + 1e-6,
    )
    for button in (viewer.pause_train, viewer.resume_train):
        button.on_click(lambda _: panel.redraw())
    return panel
