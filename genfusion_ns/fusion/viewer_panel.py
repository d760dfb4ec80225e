"""The panel "GenFusion" of the training viewer: what the loop does, and the wishes of the person who watches.

Two threads meet here. The training thread calls `after_step` and `finish`, takes snapshots of the loop and shows them;
viser's threads run the buttons, read snapshots only, and hand every action to `FusionLoop.request`.

viser's world is nerfstudio's, enlarged by `VISER_NERFSTUDIO_SCALE_RATIO`; its cameras have OpenCV axes.
"""

from __future__ import annotations

import colorsys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import viser
import viser.transforms as vtf
from jaxtyping import Float
from nerfstudio.engine.trainer import Trainer
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from torch import Tensor

from genfusion_ns.data.generated_views import GeneratedView
from genfusion_ns.fusion.loop import FusionLoop, LoopStatus
from genfusion_ns.fusion.viewer_panel_clips import ClipBrowser
from genfusion_ns.fusion.viewer_panel_text import describe
from genfusion_ns.geometry.cameras import viewmat_to_c2w

_EVERY = 10
"""Steps between looks at the loop."""
_MOST_CAMERAS = 100
"""Frustums that a browser draws without effort."""
_CLEARANCE = 10.0
"""Times the size of a frustum that it must lie away from a viewer's eye to be drawn."""


def scene_pose(wxyz: np.ndarray, position: np.ndarray) -> Float[Tensor, "3 4"]:
    """Camera-to-world pose (OpenGL axes, scene units) of a viser camera.

    Args:
        wxyz: its orientation, OpenCV axes, as a unit quaternion. [4]
        position: its place in viser's world. [3]
    """
    opencv = vtf.SO3(np.asarray(wxyz, np.float64)).as_matrix()
    rotation = opencv * np.array([1.0, -1.0, -1.0])
    place = np.asarray(position, np.float64) / VISER_NERFSTUDIO_SCALE_RATIO
    return torch.from_numpy(np.concatenate([rotation, place[:, None]], axis=1)).float()


def viser_pose(c2w: Float[Tensor, "rows 4"]) -> tuple[np.ndarray, np.ndarray]:
    """Orientation (wxyz) and position in viser's world of a camera-to-world pose; inverse of `scene_pose`."""
    pose = c2w.detach().double().cpu().numpy()
    rotation = vtf.SO3.from_matrix(pose[:3, :3] * np.array([1.0, -1.0, -1.0]))
    return rotation.wxyz, pose[:3, 3] * VISER_NERFSTUDIO_SCALE_RATIO


@dataclass(frozen=True)
class _Frustum:
    """How one generated view is drawn."""

    wxyz: np.ndarray
    position: np.ndarray
    fov_y: float
    aspect: float
    color: tuple[int, int, int]

    @classmethod
    def of(cls, view: GeneratedView) -> _Frustum:
        """From red (confidence 0) over yellow to green (confidence 1)."""
        width, height = view.size
        confidence = float(view.confidence.float().mean())
        red, green, blue = (round(255 * x) for x in colorsys.hsv_to_rgb(min(max(confidence, 0.0), 1.0) / 3, 0.9, 0.9))
        fov_y = 2 * float(torch.atan(height / 2 / view.K[1, 1]))
        return cls(*viser_pose(viewmat_to_c2w(view.viewmat)), fov_y, width / height, (red, green, blue))


class _Frustums:
    """The generated cameras in the scene; any thread may call."""

    def __init__(self, server: viser.ViserServer, scale: float) -> None:
        self._server = server
        self._scale = scale
        self._lock = threading.Lock()
        self._frustums: list[_Frustum] = []
        self._handles: list[viser.CameraFrustumHandle] = []

    def show(self, frustums: list[_Frustum] | None, visible: bool) -> None:
        """Draw these, or the former ones (None), or nothing."""
        with self._lock:
            if frustums is not None:
                self._frustums = frustums
            for handle in self._handles:
                handle.remove()
            # The same names again: viser remembers every name it ever saw for browsers that connect later.
            self._handles = [
                self._server.scene.add_camera_frustum(
                    f"/genfusion/camera_{i:03d}",
                    fov=frustum.fov_y,
                    aspect=frustum.aspect,
                    scale=self._scale,
                    color=frustum.color,
                    wxyz=frustum.wxyz,
                    position=frustum.position,
                )
                for i, frustum in enumerate(self._frustums if visible else [])
            ]
        self.clear_views()

    def clear_views(self) -> None:
        """Hide those around a viewer's eye, as after a completion from there: their bars would fill the picture."""
        eyes = [client.camera.position for client in self._server.get_clients().values()]
        nearest = _CLEARANCE * self._scale
        with self._lock:
            for handle in self._handles:
                handle.visible = all(np.linalg.norm(handle.position - eye) > nearest for eye in eyes)


class GenFusionPanel:
    """State of the loop, its controls, its clips and its cameras in the viewer.

    The same actions without a viewer: `pipeline.loop`, see `FusionLoop`.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        loop: FusionLoop,
        training_state: Callable[[], str],
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
        self._views: tuple[GeneratedView, ...] = ()
        self._frustums = _Frustums(server, frustum_scale)
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
        self.cameras.on_update(lambda _: self._frustums.show(None, self.cameras.value))
        self.refresh(step)

    def after_step(self, step: int) -> None:
        """Show what the loop is doing, from time to time; on the training thread, after each step."""
        due = self._status.next_step == step + 1 and not self._loop.paused
        if due or self._doing or step % _EVERY == 0:
            self._doing = f"making round {self._status.rounds}" if due else ""
            self.refresh(step + 1)

    def refresh(self, step: int) -> None:
        """Take a new snapshot of the loop before this step and show it; on the training thread."""
        loop = self._loop
        self._status = loop.status(step)
        if self.pause.value != loop.paused:
            self.pause.value = loop.paused
        views = tuple(loop.store)
        # By identity: views never change, and equality of tensors would be compared pixel by pixel.
        if list(map(id, views)) != list(map(id, self._views)) or self.clips.is_behind(loop.latest):
            self._views = views
            stride = -(-len(views) // _MOST_CAMERAS) or 1
            self._frustums.show([_Frustum.of(view) for view in views[::stride]], self.cameras.value)
            self.clips.update(views, loop.latest)
        self._frustums.clear_views()
        self.redraw()

    def finish(self, step: int) -> None:
        """Training is over: show the final state, and that no wish can be granted any more."""
        self._doing = ""
        self.refresh(step + 1)
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


def attach_panel(trainer: Trainer, loop: FusionLoop) -> GenFusionPanel | None:
    """The panel in the trainer's viewer, above its tabs; None without a viewer and in the legacy one."""
    viewer = trainer.viewer_state
    if not isinstance(viewer, Viewer):
        return None
    above_tabs = viewer.stats_markdown.order + 1e-6
    panel = GenFusionPanel(
        viewer.viser_server,
        loop,
        lambda: trainer.training_state,
        trainer._start_step,
        viewer.config.camera_frustum_scale,
        above_tabs,
    )
    for button in (viewer.pause_train, viewer.resume_train):
        button.on_click(lambda _: panel.redraw())
    return panel
