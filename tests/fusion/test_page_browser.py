"""The page of `gf-report` in a real browser: from disk, without network, with the pictures of our own rasteriser."""

import base64
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, find_chromium
from page_run import make_report_run
from PIL import Image

from genfusion_ns.fusion.exporting.views import ExportCamera
from genfusion_ns.fusion.page.job import gathered
from genfusion_ns.fusion.page.packing import pack
from genfusion_ns.fusion.page.scene import camera_facts, photo_cameras
from genfusion_ns.fusion.page.settings import ReportSettings
from genfusion_ns.fusion.run_config import load_run

pytestmark = pytest.mark.slow

LISTEN = """
window.problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => problems.push(event.violatedDirective));
for (const name of ["error", "warn"]) console[name] = (...words) => problems.push(words.join(" "));
"""


@pytest.fixture(scope="module")
def run(made_once, sample_capture, generator_folder) -> Path:
    return make_report_run(made_once, sample_capture, generator_folder)


@pytest.fixture(scope="module")
def reported(run):
    return gathered(ReportSettings(run))


@pytest.fixture(scope="module")
def page(reported, tmp_path_factory):
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium on this machine: the page is not opened")
    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_bytes(reported.page(reported.most))
    with Browser(chromium, folder / "browser") as browser:
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=LISTEN)
        browser.call("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=1, mobile=True)
        browser.call("Page.navigate", url=(folder / "report.html").as_uri())
        browser.wait_for(lambda: browser.evaluate("!!window.viewer"), "the viewer")
        yield browser


def looked(browser: Browser, camera: int, mode: str) -> np.ndarray:
    """The viewer's picture through a camera of the page, 0..1."""
    url = browser.evaluate(
        f"(() => {{ const c = read('scene').cameras[{camera}]; "
        f"return viewer.look(c.c2w, c, c.width, c.height, '{mode}'); }})()"
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")) / 255


def decibels(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(ours - theirs).mean()))


def test_the_viewer_draws_what_our_rasteriser_draws(page, run):
    pipeline = load_run(run / "config.yml")
    scene = pipeline.scene
    for number in (0, 1):
        camera = photo_cameras(pipeline)[number]
        with torch.no_grad():
            view = scene.view(camera.viewmat[None], camera.K[None], *camera.size, scene.display_background())
        outputs = view.outputs()
        assert looked(page, number, "colour").shape == tuple(outputs["rgb"].shape)
        assert decibels(looked(page, number, "colour"), outputs["rgb"].numpy()) > 40
        alpha, empty = outputs["accumulation"].numpy(), np.array(page.evaluate("colourOf('--sheet')"))
        assert alpha.mean() > 0.2
        normals = alpha * outputs["normals"].numpy() + (1 - alpha) * empty
        assert decibels(looked(page, number, "normals"), normals) > 30


def test_a_pixel_filter_is_drawn_as_well(page, run):
    pipeline = load_run(run / "config.yml")
    scene, camera = pipeline.scene, photo_cameras(pipeline)[0]
    scene.config.antialias, scene.config.mip_kernel = "mip", 4.0
    with torch.no_grad():
        view = scene.view(camera.viewmat[None], camera.K[None], *camera.size, scene.display_background())
    before = looked(page, 0, "colour")
    page.evaluate("viewer.scene.variance = 4")
    filtered = looked(page, 0, "colour")
    page.evaluate("viewer.scene.variance = -1")
    assert decibels(filtered, view.outputs()["rgb"].numpy()) > 50 > decibels(filtered, before)


def test_sides_that_no_photo_sees_are_not_drawn(page, run):
    pipeline = load_run(run / "config.yml")
    scene, camera = pipeline.scene, photo_cameras(pipeline)[0]
    # From twice as far behind what the photo shows, looking back at it.
    beyond = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    beyond[2, 3] = 2 * scene.length
    viewmat = (beyond @ camera.viewmat)[None]
    pose = camera_facts(ExportCamera(viewmat[0], camera.K, camera.size))["c2w"]
    url = page.evaluate(
        "(() => { const c = read('scene').cameras[0]; "
        f"return viewer.look({pose}, c, c.width, c.height, 'colour'); }})()"
    )
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")) / 255
    pictures = {}
    for sides in ("hidden", "shown"):
        scene.config.unseen_sides = sides
        with torch.no_grad():
            view = scene.view(viewmat, camera.K[None], *camera.size, scene.display_background())
        pictures[sides] = view.outputs()["rgb"].numpy()
    assert decibels(drawn, pictures["hidden"]) > max(40, 5 + decibels(drawn, pictures["shown"]))


def test_surfels_are_unpacked_as_they_were_packed(page, reported):
    again = pack(reported.splats, np.zeros(len(reported.splats), int), reported.sides)
    header, content = json.dumps(again.header), base64.b64encode(again.content).decode()
    page.call(
        "Runtime.evaluate",
        expression=f"inflated(fromBase64('{content}')).then((b) => window.unpacked = unpack(b, {header}))",
        awaitPromise=True,
    )
    found = {
        name: np.array(page.evaluate(f"Array.from(unpacked.{name})")) for name in ("places", "firsts", "opacities")
    }
    splats = reported.splats
    assert np.allclose(found["places"].reshape(-1, 3), splats.means, atol=1e-5)
    firsts = splats.rotations()[:, :, 0] * np.exp(splats.log_scales[:, :1])
    assert np.abs(found["firsts"].reshape(-1, 3) - firsts).max() < 3e-3 * np.exp(splats.log_scales[:, 0]).max()
    assert np.allclose(found["opacities"], 1 / (1 + np.exp(-splats.logits)), atol=1e-4)


def test_surfels_are_sorted_exactly(page):
    rng = np.random.default_rng(0)
    places = rng.normal(size=(3000, 3)).astype(np.float32)
    places[100:200] = places[:100]  # equal depths
    row = [0.6, 0.0, 0.8, 2.0]
    found = page.evaluate(f"Array.from(sortByDepth(new Float32Array({places.ravel().tolist()}), {row}, 0.5))")
    depth = (places.astype(np.float64) @ row[:3] + row[3]).astype(np.float32)
    expected = [i for i in np.argsort(depth, kind="stable") if depth[i] >= 0.5][::-1]
    assert 0 < len(expected) < 3000 and found == expected
    assert page.evaluate("sortByDepth(new Float32Array(0), [0, 0, 1, 0], 1).length") == 0


def test_modes_change_the_picture(page):
    assert page.evaluate("viewer.modes.join()") == "colour,normals,photos"
    pictures = [looked(page, 0, mode) for mode in ("colour", "normals", "photos")]
    assert all(decibels(a, b) < 30 for a, b in itertools.pairwise(pictures))
    page.click_button("Seen by photos")
    assert page.evaluate("document.querySelector('[data-mode=photos]').ariaPressed") == "true"
    assert page.evaluate("document.querySelector('[data-mode=colour]').ariaPressed") == "false"
    assert page.evaluate("getComputedStyle(document.getElementById('legend')).display") == "flex"
    page.click_button("Colour")
    assert page.evaluate("getComputedStyle(document.getElementById('legend')).display") == "none"


def test_cameras_are_shown_and_visited(page):
    before = page.evaluate("JSON.stringify(viewer.camera.pose)")
    page.evaluate("document.getElementById('next').click()")
    assert page.evaluate("document.getElementById('photo-name').textContent") == page.evaluate(
        "read('scene').cameras[1].name"
    )
    assert page.evaluate("JSON.stringify(viewer.camera.pose)") != before
    page.evaluate("viewer.camera.zoom(3); document.getElementById('show-photos').click()")
    count = page.evaluate("read('scene').cameras.length")
    page.wait_for(
        lambda: page.evaluate("viewer.overlay.tips.length") >= min(count, 3), "tips of cameras in the picture"
    )


def test_orbiting_keeps_the_distance_and_the_horizon(page):
    page.evaluate("viewer.camera.take(read('scene').cameras[0]); window.held = viewer.camera.focus")
    page.evaluate("viewer.camera.turn(0.7, 0.2)")
    away, tilt, shift = page.evaluate(
        "[Math.hypot(...add(viewer.camera.eye, held, -1)), dot(column(viewer.camera.pose, 0), viewer.camera.up) - "
        "dot(column(read('scene').cameras[0].c2w, 0), viewer.camera.up), "
        "Math.hypot(...add(viewer.camera.focus, held, -1))]"
    )
    assert away == pytest.approx(page.evaluate("viewer.camera.distance"), rel=1e-6)
    assert abs(tilt) < 1e-6 and shift < 1e-6
    page.evaluate("viewer.camera.turn(0, 9)")  # no farther than upright
    assert page.evaluate("dot(column(viewer.camera.pose, 2), viewer.camera.up)") == pytest.approx(0.99, abs=8e-3)


def test_sliders_cut_the_picture_on_top(page):
    cut = (
        "(() => { const box = document.querySelector('.compare'), slider = box.querySelector('input'); "
        "slider.value = {}; slider.dispatchEvent(new Event('input')); "
        "return getComputedStyle(box.querySelector('.before')).clipPath; })()"
    )
    left, right = (page.evaluate(cut.replace("{}", str(value))) for value in (0, 100))
    assert left != right and page.evaluate("document.querySelector('.compare img').naturalWidth") > 10


def test_the_page_fits_a_phone_and_asks_for_nothing(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name).join()") == ""
    assert page.evaluate("problems.join('; ')") == ""
