"""The panel in a real browser: a short training with its viewer, buttons that are clicked, rounds that appear."""

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, find_chromium, free_port, port_open
from commands import BIN
from PIL import Image

pytestmark = pytest.mark.slow

STEPS = 4000
TRAIN = (
    *("--vis", "viewer", "--experiment-name", "scene", "--pipeline.datamanager.num-views", "6"),
    *("--pipeline.repairer.model", "compact", "--pipeline.repairer.resolution", "64", "48"),
    *("--pipeline.repairer.steps", "2", "--pipeline.fusion.sampler.num-frames", "16"),
    *("--pipeline.fusion.start", "3000", "--pipeline.fusion.reject-margin", "100"),
    *("--pipeline.fusion.least-shown", "0"),
    *("--max-num-iterations", str(STEPS)),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("panel")
    words = ("gf-sample-scene", "scene", "--num-views", "12", "--width", "128", "--height", "96", "--seed", "3")
    subprocess.run([str(BIN / words[0]), *words[1:]], cwd=folder, check=True, capture_output=True, timeout=300)
    return folder


def test_fuse_complete_and_drop_from_the_page(workspace):
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium on this machine: the viewer page is not opened")
    port, run = free_port(), workspace / "runs" / "scene" / "genfusion" / "watched"
    words = ("ns-train", "genfusion", "--data", "scene", "--output-dir", "runs", "--timestamp", "watched", *TRAIN)
    with (workspace / "train.log").open("w") as log:
        training = subprocess.Popen(
            [str(BIN / words[0]), *words[1:], "--viewer.websocket-port", str(port)],
            cwd=workspace,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        try:
            with Browser(chromium, workspace / "browser") as browser:
                browser.wait_for(lambda: port_open(port) or training.poll() is not None, "the viewer to listen")
                assert training.poll() is None, (workspace / "train.log").read_text()[-3000:]
                browser.call("Page.navigate", url=f"http://127.0.0.1:{port}")
                browser.wait_for(lambda: "0 made, next at step 3000" in browser.text(), "the state of the loop")
                assert "GenFusion" in browser.text()

                browser.click_button("Fuse now")
                browser.wait_for(lambda: "1 made" in browser.text(), "the round in the page")
                assert (run / "genfusion" / "round_00" / "round.json").is_file()
                width = "document.querySelector('img[src^=\"data:image/webp\"]').naturalWidth"
                assert browser.wait_for(lambda: browser.evaluate(width), "the clip in the page") >= 128

                browser.click_button("Complete from here")
                browser.wait_for(lambda: "2 made" in browser.text(), "the second round in the page")
                assert "towards a camera" in (run / "genfusion" / "round_01" / "round.json").read_text()

                browser.click_label("Pause fusing")
                browser.wait_for(lambda: "2 made, paused" in browser.text(), "the loop to pause")
                browser.click_button("Drop clip")
                browser.wait_for(lambda: "Dropped clip 0 of round 1" in browser.text(), "the clip to be dropped")
                browser.click_button("Pause Training")
                browser.click_button("Fuse now")
                browser.wait_for(lambda: "training is paused, waiting: 1" in browser.text(), "the request to wait")

                # Nothing but the cameras changes in the picture while training rests.
                before = browser.wait_for(lambda: resting_picture(browser, workspace), "the picture to come to rest")
                browser.click_label("Show cameras")
                browser.wait_for(lambda: canvas(browser, workspace) != before, "the generated cameras to go")
            assert training.poll() is None, (workspace / "train.log").read_text()[-3000:]
        finally:
            training.terminate()
            training.wait(timeout=60)


def canvas(browser: Browser, workspace: Path) -> bytes:
    """The scene as the page shows it."""
    browser.screenshot(workspace / "panel.png")
    return np.asarray(Image.open(workspace / "panel.png").convert("RGB"))[80:560, 20:900].tobytes()


def resting_picture(browser: Browser, workspace: Path) -> bytes | None:
    """The scene once it has not changed for two seconds."""
    before = canvas(browser, workspace)
    time.sleep(2)
    return before if canvas(browser, workspace) == before else None
