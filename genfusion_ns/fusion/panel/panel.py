"""The panel "GenFusion" of the training viewer: what the loop does, and the wishes of the person who watches.

Two threads meet here. The training thread calls `after_step` and `finish`, takes snapshots of the loop and shows them;
viser's threads run the buttons, read snapshots only, and hand every action to `SteeredRounds.request`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import viser
from nerfstudio.engine.trainer import Trainer
from nerfstudio.viewer.viewer import Viewer

from genfusion_ns.errors import message_of
from genfusion_ns.fusion.panel.cameras import GeneratedCameras, scene_pose
from genfusion_ns.fusion.panel.clips import ClipBrowser
from genfusion_ns.fusion.panel.text import describe
from genfusion_ns.fusion.rounds.generated_views import GeneratedView
from genfusion_ns.fusion.rounds.steering import LoopStatus, SteeredRounds
from genfusion_ns.messages import say

_EVERY = 10
"""Steps between looks at the loop."""


class GenFusionPanel:
    """State of the loop, its controls, its clips and its cameras in the viewer.

    The same actions without a viewer: `pipeline.supervision`, see `genfusion_ns.fusion.loop.FusionLoop`.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        loop: SteeredRounds,
        training_state: Callable[[], str],
        *,
        step: int = 0,
        frustum_scale: float = 0.1,
        order: float | None = None,
    ) -> None:
        """Build the panel.

        Args:
            server: of the viewer.
            loop: of the run.
            training_state: tells "training", "paused" or "completed".
            step: the first of the run.
            frustum_scale: size of the generated cameras, in viser units.
            order: place among the elements of the sidebar, smaller is higher; None: below all others.
        """
        self._loop = loop
        self._training_state = training_state
        self._status: LoopStatus = loop.status(step)
        self._doing = ""
        self._failed = False
        self._views: tuple[GeneratedView, ...] = ()
        self._frustums = GeneratedCameras(server, frustum_scale)
        gui, off = server.gui, not loop.active
        with gui.add_folder("GenFusion", order=order):
            self._text = gui.add_markdown("")
            self.pause = gui.add_checkbox(
                "Pause fusing", loop.paused, disabled=off, hint="No scheduled rounds; training goes on"
            )
            self.fuse = gui.add_button(
                "Fuse now", disabled=off, icon=viser.Icon.REFRESH, hint="Replace the generated views by new ones"
            )
            self.complete = gui.add_button(
                "Complete from here",
                disabled=off,
                icon=viser.Icon.CAMERA_PLUS,
                hint="Generate the views between the nearest photo and what you see now, and keep them",
            )
            self.cameras = gui.add_checkbox(
                "Show cameras", True, disabled=off, hint="Of the generated views; red: low confidence, green: high"
            )
            self.clips = ClipBrowser(gui, self._drop, loop.files.folder)
        self.pause.on_update(self._set_pause)
        self.fuse.on_click(lambda _: self._ask("making a round", lambda step: loop.fuse_once(step, requested=True)))
        self.complete.on_click(self._complete_from_here)
        self.cameras.on_update(lambda _: self._frustums.show(self.cameras.value))
        self._show(step)

    def after_step(self, step: int) -> None:
        """Show what the loop is doing, from time to time; on the training thread, after each step."""
        if self._failed:
            return
        due = self._status.next_step == step + 1 and not self._loop.paused
        if due or self._doing or step % _EVERY == 0:
            self._doing = f"making round {self._status.rounds}" if due else ""
            self.refresh(step + 1)

    def refresh(self, step: int) -> None:
        """Take a new snapshot of the loop before this step and show it; on the training thread.

        A panel that cannot be drawn is not drawn again; training goes on.
        """
        if self._failed:
            return
        try:
            self._show(step)
        except Exception as error:  # whatever a viewer or its connection has, the run must not end for it
            self._failed = True
            say(f'The panel "GenFusion" of the viewer stops, training goes on: {message_of(error)}', "yellow")

    def _show(self, step: int) -> None:
        loop = self._loop
        self._status = loop.status(step)
        if self.pause.value != loop.paused:
            self.pause.value = loop.paused
        views = tuple(loop.store)
        # By identity: views never change, and equality of tensors would be compared pixel by pixel.
        if list(map(id, views)) != list(map(id, self._views)) or self.clips.is_behind(loop.latest):
            self._views = views
            self._frustums.draw(views, self.cameras.value)
            self.clips.update(views, loop.latest)
        self._frustums.clear_views()
        self.redraw()

    def finish(self, step: int) -> None:
        """Training is over: show the final state, and that no wish can be granted any more."""
        self._doing = ""
        self.refresh(step + 1)
        if self._failed:
            return
        for button in (self.pause, self.fuse, self.complete, self.clips.drop):
            button.disabled = True

    def redraw(self) -> None:
        """Show the latest snapshot together with whether training runs; any thread may call."""
        text = describe(self._status, self._training_state(), self._doing)
        if text != self._text.content:
            self._text.content = text

    def _set_pause(self, _: viser.GuiEvent[Any]) -> None:
        self._loop.paused = self.pause.value
        self._status = replace(self._status, paused=self.pause.value)
        self.redraw()

    def _complete_from_here(self, event: viser.GuiEvent[Any]) -> None:
        if event.client is None:
            return
        camera = event.client.camera
        c2w, fov_y = scene_pose(camera.wxyz, camera.position), float(camera.fov)
        self._ask("completing from your camera", lambda step: self._loop.complete_from(step, c2w, fov_y))

    def _drop(self, round: int, clip: int) -> None:
        self._ask("dropping a clip", lambda step: self._loop.drop(round, clip))

    def _ask(self, what: str, action: Callable[[int], object]) -> None:
        def watched(step: int) -> None:
            self._doing = what  # until `after_step`, which also shows what became of it
            self.refresh(step)
            action(step)

        if self._training_state() != "completed":
            self._status = replace(self._status, waiting=self._status.waiting + 1)
            self._loop.request(watched)
        self.redraw()


def attach_panel(trainer: Trainer, loop: SteeredRounds) -> GenFusionPanel | None:
    """The panel in the trainer's viewer, above its tabs; None without a viewer and in the legacy one."""
    viewer = trainer.viewer_state
    if not isinstance(viewer, Viewer):
        return None
    above_tabs = viewer.stats_markdown.order + 1e-6
    panel = GenFusionPanel(
        viewer.viser_server,
        loop,
        lambda: trainer.training_state,
        step=trainer._start_step,
        frustum_scale=viewer.config.camera_frustum_scale * loop.model.length,
        order=above_tabs,
    )
    for button in (viewer.pause_train, viewer.resume_train):
        button.on_click(lambda _: panel.redraw())
    return panel
