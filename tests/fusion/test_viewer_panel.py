"""The panel of the viewer on a real viser server, with the loop of a real trainer at toy size; no browser."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import viser
import viser.transforms as vtf
from tiny_run import make_trainer
from viser import _messages

from genfusion_ns.fusion.loop import LoopStatus
from genfusion_ns.fusion.panel.cameras import scene_pose, viser_pose
from genfusion_ns.fusion.panel.panel import GenFusionPanel, attach_panel
from genfusion_ns.fusion.panel.text import describe, quoted
from genfusion_ns.fusion.trainer import GenFusionTrainer


@pytest.fixture(scope="module")
def trainer(capture_folder, generator_folder, tmp_path_factory) -> GenFusionTrainer:
    return make_trainer(capture_folder, tmp_path_factory.mktemp("run"), str(generator_folder), steps=40)


@pytest.fixture
def server():
    server = viser.ViserServer(host="127.0.0.1", port=0)
    yield server
    server.stop()


class Watched:
    """A panel, what it says, and clicks on it, while a test plays the training thread."""

    def __init__(self, server: viser.ViserServer, trainer: GenFusionTrainer) -> None:
        self.server, self.loop, self.state = server, trainer.pipeline.supervision, "training"
        self.panel = GenFusionPanel(server, self.loop, lambda: self.state)

    @property
    def text(self) -> str:
        return " ".join(json.loads(string) for string in re.findall(r"\{(\".*?\")\}", self.panel._text.content))

    def click(self, element, client=None) -> None:
        for callback in element._impl.update_cb:
            callback(viser.GuiEvent(client, 0, element))

    def tick(self, element, value: bool) -> None:
        element._impl.value = value
        self.click(element)

    def step(self, step: int) -> None:
        self.loop.before_step(step)
        self.panel.after_step(step)

    def frustums(self) -> dict[str, _messages.CameraFrustumMessage]:
        """Those that a browser would show that connects now."""
        shown = {}
        for message in self.server._websock_server._broadcast_buffer.message_from_id.values():
            if isinstance(message, _messages.CameraFrustumMessage):
                shown[message.name] = message
            elif isinstance(message, _messages.RemoveSceneNodeMessage):
                shown.pop(message.name, None)
        return {name: message for name, message in shown.items() if name.startswith("/genfusion/")}


def client_at(wxyz: np.ndarray, position: np.ndarray, fov: float = 0.9) -> SimpleNamespace:
    return SimpleNamespace(camera=SimpleNamespace(wxyz=wxyz, position=position, fov=fov))


def nerfstudio_client_pose(c2w: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Where nerfstudio's viewer puts the frustum of a train camera, and so a browser that clicks on it."""
    pose = c2w.numpy()
    rotation = vtf.SO3.from_matrix(pose[:3, :3]) @ vtf.SO3.from_x_radians(np.pi)
    return rotation.wxyz, pose[:3, 3] * 10


def test_a_client_at_a_train_camera_has_the_pose_of_that_camera(trainer):
    for c2w in trainer.pipeline.datamanager.train_dataset.cameras.camera_to_worlds:
        wxyz, position = nerfstudio_client_pose(c2w)
        torch.testing.assert_close(scene_pose(wxyz, position), c2w.float(), atol=1e-5, rtol=0)
        ours = viser_pose(c2w)
        assert abs(float(np.dot(ours[0], wxyz))) == pytest.approx(1, abs=1e-5)  # a quaternion and its negative agree
        np.testing.assert_allclose(ours[1], position, atol=1e-5)


def test_the_pose_is_that_of_nerfstudios_own_viewer(trainer):
    from nerfstudio.viewer.viewer import Viewer

    rng = np.random.default_rng(0)
    quaternion = rng.normal(size=4)
    client = client_at(quaternion / np.linalg.norm(quaternion), rng.normal(size=3) * 7)
    client.camera.aspect = 1.5
    viewer = SimpleNamespace(ready=False, current_camera_idx=0)
    theirs = Viewer.get_camera_state(viewer, client).c2w
    torch.testing.assert_close(scene_pose(client.camera.wxyz, client.camera.position), theirs.float())


def test_the_panel_follows_the_loop_and_carries_out_what_is_clicked(trainer, server):
    watched = Watched(server, trainer)
    panel, loop = watched.panel, watched.loop
    assert "0 made, next at step 4" in watched.text
    assert panel.clips.shown.disabled and panel.clips.drop.disabled
    assert watched.frustums() == {}

    watched.click(panel.fuse)
    assert "waiting: 1" in watched.text and len(loop.store) == 0, "a click must leave the work to the training thread"
    watched.step(1)
    assert "1 made" in watched.text and "waiting" not in watched.text
    assert "on 20 generated views" in watched.text
    assert len(watched.frustums()) == 20
    labels = panel.clips.shown.options
    assert [label.split(" (")[0] for label in labels] == ["Round 0 clip 1", "Round 0 clip 0"]
    assert panel.clips.shown.value == labels[-1], "the first clip of the newest round is shown"
    assert panel.clips.picture.content.count("data:image/webp;base64,") == 1

    watched.click(panel.clips.drop)
    watched.step(2)
    assert len(loop.store) == 4 and {view.clip for view in loop.store} == {1}
    assert len(watched.frustums()) == 4
    assert panel.clips.shown.value == "Round 0 clip 0 (dropped)" and panel.clips.drop.disabled
    assert "Dropped clip 0 of round 0" in watched.text

    camera = trainer.pipeline.datamanager.train_dataset.cameras[2]
    wxyz, position = nerfstudio_client_pose(camera.camera_to_worlds)
    watched.click(panel.complete, client_at(wxyz, position + np.array([1.0, 0.5, 0.0]), fov=0.7))
    watched.step(3)
    assert loop.store.pinned == {1}
    wanted = camera.camera_to_worlds.clone()
    wanted[:, 3] += torch.tensor([0.1, 0.05, 0.0])
    torch.testing.assert_close(loop.latest.sampled.c2w[-1][:3], wanted, atol=1e-4, rtol=0)
    height = loop.latest.sampled.size[1]
    assert 2 * np.arctan(height / 2 / float(loop.latest.sampled.K[-1, 1, 1])) == pytest.approx(0.7, abs=1e-4)
    assert panel.clips.shown.value.startswith("Round 1 clip 0 (0.")
    last = watched.frustums()["/genfusion/camera_019"]
    assert last.fov == pytest.approx(0.7, abs=1e-4)


def test_pause_holds_scheduled_rounds_back_and_shows_the_loops_own_state(trainer, server):
    watched = Watched(server, trainer)
    panel, loop = watched.panel, watched.loop
    rounds = loop.status(8).rounds
    watched.tick(panel.pause, True)
    watched.step(8)
    assert loop.paused and loop.status(8).rounds == rounds
    assert "paused" in watched.text
    loop.paused = False  # by the Python interface
    watched.step(10)
    assert panel.pause.value is False
    assert "next at step 12" in watched.text


def test_a_due_round_is_announced_before_the_training_thread_is_busy_with_it(trainer, server):
    watched = Watched(server, trainer)
    count = watched.loop.status(10).rounds
    watched.step(10)
    watched.step(11)
    assert f"making round {count} ..." in watched.text
    watched.step(12)
    assert "making" not in watched.text and f"{count + 1} made, next at step 16" in watched.text


def test_requests_wait_while_training_is_paused_and_are_refused_when_it_is_complete(trainer, server):
    watched = Watched(server, trainer)
    panel, loop = watched.panel, watched.loop
    watched.state = "paused"
    watched.click(panel.fuse)
    watched.click(panel.fuse)
    assert "training is paused, waiting: 2" in watched.text
    watched.state = "completed"
    panel.finish(39)
    assert "complete" in watched.text and "2 requests were not carried out" in watched.text
    assert panel.fuse.disabled and panel.complete.disabled and panel.pause.disabled and panel.clips.drop.disabled
    watched.click(panel.fuse)
    assert loop.status(40).waiting == 2
    loop.before_step(13)  # leaves the queue empty for the tests that follow


def test_a_wish_that_cannot_be_granted_is_answered_in_the_panel(trainer, server):
    watched = Watched(server, trainer)
    watched.click(watched.panel.complete, client_at(np.array([1.0, 0, 0, 0]), np.zeros(3), fov=4.0))
    watched.step(15)
    assert "between 0 and 180" in watched.text
    assert watched.loop.status(16).waiting == 0


def test_frustums_come_and_go_with_the_toggle_and_are_coloured_by_confidence(trainer, server):
    watched = Watched(server, trainer)
    loop, panel = watched.loop, watched.panel
    loop.fuse_once(21)
    for view, value in zip(loop.store, (0.0, 1.0), strict=False):
        view.confidence.fill_(value)
    panel.refresh(22)
    shown = watched.frustums()
    assert len(shown) == min(100, len(loop.store)) > 0
    position_of = {
        message.name: message.position
        for message in server._websock_server._broadcast_buffer.message_from_id.values()
        if isinstance(message, _messages.SetPositionMessage)
    }
    views, names = list(loop.store), sorted(shown)
    for view, name in zip(views, names, strict=True):
        centre = -(view.viewmat[:3, :3].T @ view.viewmat[:3, 3]) * 10
        np.testing.assert_allclose(position_of[name], centre.numpy(), atol=1e-4)
    sure = [name for name, view in zip(names, views, strict=True) if view.confidence.min() == 1]
    unsure = [name for name, view in zip(names, views, strict=True) if view.confidence.max() == 0]
    assert all((shown[name].color >> 8) & 255 > 200 > shown[name].color >> 16 for name in sure) and sure
    assert all((shown[name].color >> 8) & 255 < 50 and shown[name].color >> 16 > 200 for name in unsure) and unsure
    watched.tick(panel.cameras, False)
    assert watched.frustums() == {}
    watched.tick(panel.cameras, True)
    assert watched.frustums().keys() == shown.keys()
    for index in loop.store.rounds:
        loop.drop(index)
    panel.refresh(22)
    assert watched.frustums() == {}


def test_a_frustum_around_the_eye_of_a_viewer_is_hidden_until_the_viewer_moves(trainer, server):
    watched = Watched(server, trainer)
    watched.loop.fuse_once(22)
    view = watched.loop.store[0]
    eye = (view.viewmat[:3, :3].T @ -view.viewmat[:3, 3]).numpy() * 10
    client = client_at(np.array([1.0, 0, 0, 0]), eye)
    server._connected_clients[0] = client
    watched.panel.refresh(23)
    handles = watched.panel._frustums._handles
    assert not handles[0].visible and any(handle.visible for handle in handles)
    client.camera.position = eye + 1000
    watched.panel.refresh(24)
    assert all(handle.visible for handle in handles)


def test_one_frame_at_a_time_when_it_does_not_play(trainer, server):
    watched = Watched(server, trainer)
    watched.loop.fuse_once(23)
    watched.panel.refresh(24)
    clips = watched.panel.clips
    playing = clips.picture.content
    assert not clips.frame.visible
    watched.tick(clips.play, False)
    first = clips.picture.content
    clips.frame._impl.value = 15
    watched.click(clips.frame)
    assert clips.frame.visible
    assert len({playing, first, clips.picture.content}) == 3


def test_without_a_repairer_the_panel_says_so_and_offers_nothing(capture_folder, server, tmp_path):
    watched = Watched(server, make_trainer(capture_folder, tmp_path, "none"))
    assert "--pipeline.repairer.model" in watched.text
    panel = watched.panel
    assert panel.fuse.disabled and panel.complete.disabled and panel.pause.disabled and panel.cameras.disabled


def test_nerfstudios_viewer_can_read_a_pipeline_that_has_no_loop_yet(trainer):
    from nerfstudio.viewer.utils import parse_object
    from nerfstudio.viewer.viewer_elements import ViewerElement

    pipeline = trainer.pipeline.config.setup(device="cpu", test_mode="val")
    assert parse_object(pipeline, ViewerElement, "Custom Elements") == []
    with pytest.raises(ValueError, match="there is no supervision"):
        _ = pipeline.supervision


def test_no_viewer_no_panel(trainer):
    assert trainer.viewer_state is None
    assert attach_panel(trainer, trainer.pipeline.supervision) is None


def test_messages_are_quoted_for_the_page_that_evaluates_them():
    status = LoopStatus(True, False, 1, 9, 0.5, 3, 0, '[yellow]see </span>{1}"[/x] \u2028 a\\b')
    page = describe(status, "training", "")
    rest = page.replace(quoted(status.message), "")
    assert rest != page, "markup that does not pair is shown as it is"
    assert "</span>{1}" not in rest


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory [/x]"),
        OSError(28, "No space left on device"),
        KeyError("[red]key"),
        FloatingPointError(),
        AssertionError("[/]"),
    ],
)
def test_a_wish_never_ends_the_run_whatever_goes_wrong(trainer, server, error, capsys):
    watched = Watched(server, trainer)
    made = watched.loop.status(0).rounds

    def fails(step: int) -> None:
        raise error

    watched.panel._ask("failing", fails)
    watched.step(3)
    message = f"This could not be done: {str(error) or type(error).__name__}"
    assert message in " ".join(capsys.readouterr().out.split())
    assert message in watched.text
    assert watched.loop.status(4).rounds == made


def test_a_panel_that_cannot_be_drawn_does_not_end_the_run(trainer, server, capsys, monkeypatch):
    watched = Watched(server, trainer)
    monkeypatch.setattr(watched.panel._frustums, "clear_views", lambda: 1 // 0)
    watched.panel.refresh(3)
    watched.panel.after_step(10)
    watched.panel.finish(11)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count('The panel "GenFusion" of the viewer stops, training goes on: integer') == 1
