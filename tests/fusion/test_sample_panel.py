"""The panel of samples on a real viser server, with the supervision of a real trainer at toy size; no browser."""

import json
import re

import pytest
import viser
from tiny_run import make_trainer
from view_priors import BlendConfig

from genfusion_ns.fusion.samples.panel import SamplePanel, attach_panel


@pytest.fixture(scope="module")
def trainer(capture_folder, tmp_path_factory):
    return make_trainer(capture_folder, tmp_path_factory.mktemp("run"), "none", fusion=BlendConfig())


class Watched:
    """A panel, what it says, and clicks on it, while a test plays the training thread."""

    def __init__(self, server: viser.ViserServer, trainer) -> None:
        self.supervision, self.state = trainer.pipeline.supervision, "training"
        self.panel = SamplePanel(server, self.supervision, lambda: self.state)

    @property
    def text(self) -> str:
        return " ".join(json.loads(string) for string in re.findall(r"\{(\".*?\")\}", self.panel.text.content))

    def pause(self, value: bool) -> None:
        self.panel.pause._impl.value = value
        for callback in self.panel.pause._impl.update_cb:
            callback(viser.GuiEvent(None, 0, self.panel.pause))


@pytest.fixture
def watched(trainer):
    server = viser.ViserServer(host="127.0.0.1", port=0)
    trainer.pipeline.supervision.paused, trainer.pipeline.supervision.latest = False, None
    yield Watched(server, trainer)
    server.stop()


def test_the_latest_sample_is_shown_beside_its_render(watched):
    assert "blend" in watched.text and watched.panel.picture.content == ""
    watched.supervision.before_step(0)
    watched.panel.after_step(0)
    first = watched.panel.picture.content
    assert first.count("data:image/webp;base64,") == 1 and "rendered" in first and "sampled" in first
    assert "before step 0, from level 1.00" in watched.text
    watched.supervision.before_step(5)
    watched.panel.after_step(5)
    assert watched.panel.picture.content == first, "not at every step"
    watched.panel.after_step(10)
    assert watched.panel.picture.content != first


def test_pause_holds_samples_back_from_the_panel_and_from_python(watched):
    watched.pause(True)
    assert watched.supervision.paused and "paused: only photos supervise" in watched.text
    watched.supervision.before_step(1)
    assert watched.supervision.latest is None
    watched.supervision.paused = False
    watched.panel.refresh(2)
    assert watched.panel.pause.value is False and "paused" not in watched.text


def test_after_the_last_step_nothing_can_be_paused(watched):
    watched.state = "completed"
    watched.panel.finish(11)
    assert watched.panel.pause.disabled and "training is complete" in watched.text


def test_a_panel_that_cannot_be_drawn_does_not_end_the_run(watched, capsys, monkeypatch):
    monkeypatch.setattr(watched.panel, "redraw", lambda: 1 // 0)
    watched.panel.refresh(3)
    watched.panel.after_step(10)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count('The panel "Samples" of the viewer stops, training goes on: integer') == 1


def test_no_viewer_no_panel(trainer):
    assert attach_panel(trainer, trainer.pipeline.supervision) is None
