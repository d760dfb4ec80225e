"""Cameras between the scene and the viewer, and the frustums of the generated views.

viser's world is nerfstudio's, enlarged by `VISER_NERFSTUDIO_SCALE_RATIO`; its cameras have OpenCV axes.
"""

from __future__ import annotations

import colorsys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import viser
import viser.transforms as vtf
from jaxtyping import Float
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from torch import Tensor

from genfusion_ns.fusion.rounds.generated_views import GeneratedView
from genfusion_ns.geometry.cameras import viewmat_to_c2w

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


class GeneratedCameras:
    """The generated cameras in the scene; any thread may call."""

    def __init__(self, server: viser.ViserServer, scale: float) -> None:
        self._server = server
        self._scale = scale
        self._lock = threading.Lock()
        self._frustums: list[_Frustum] = []
        self._handles: list[viser.CameraFrustumHandle] = []

    def draw(self, views: Sequence[GeneratedView], visible: bool) -> None:
        """Draw these views instead of the former, if there are many only some of them."""
        stride = -(-len(views) // _MOST_CAMERAS) or 1
        self._frustums = [_Frustum.of(view) for view in views[::stride]]
        self.show(visible)

    def show(self, visible: bool) -> None:
        """Draw the latest views, or nothing."""
        with self._lock:
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
