"""`gf-report` on a small real run: what it reads, what it chooses, what it writes and what it refuses."""

import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from page_run import make_report_run
from PIL import Image

from genfusion_ns.exports.splats import Splats
from genfusion_ns.fusion.exporting.views import ExportCamera
from genfusion_ns.fusion.page.budget import Choice, fitted, left_out
from genfusion_ns.fusion.page.figures import read_evaluation
from genfusion_ns.fusion.page.film import SMALLER, encoded_again, find_film, read_film
from genfusion_ns.fusion.page.job import gathered, write_report
from genfusion_ns.fusion.page.packing import pack, unpack
from genfusion_ns.fusion.page.rounds import comparisons, rounds_of_run
from genfusion_ns.fusion.page.settings import ReportSettings
from genfusion_ns.fusion.page.witnesses import witnesses
from genfusion_ns.fusion.rounds.contact_sheet import contact_sheet, encode_png, frames_on_sheet
from genfusion_ns.fusion.rounds.report import TITLE_LINES
from genfusion_ns.fusion.run_config import load_run
from genfusion_ns.geometry.clips import Clip, References, RepairedClip


@pytest.fixture(scope="module")
def run(made_once, sample_capture, generator_folder) -> Path:
    return make_report_run(made_once, sample_capture, generator_folder)


@pytest.fixture(scope="module")
def reported(run):
    return gathered(ReportSettings(run))


def scattered(count: int, bands: int = 15, seed: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(count, 4))
    return Splats(
        means=rng.normal(0, 30, (count, 3)).astype(np.float32),
        quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        log_scales=rng.normal(-3, 1, (count, 3)).astype(np.float32),
        logits=rng.normal(0, 3, count).astype(np.float32),
        dc=rng.normal(size=(count, 3)).astype(np.float32),
        rest=rng.normal(0, 0.1, (count, bands, 3)).astype(np.float32),
    )


@pytest.mark.parametrize("bands", [0, 3, 8, 15])
@pytest.mark.parametrize("count", [1, 2000])
def test_packing_loses_half_a_step(bands, count):
    splats = scattered(count, bands)
    packed = pack(splats, np.arange(count), np.arange(count) % 4)
    again = unpack(packed)
    assert packed.header["count"] == count and (packed.header["degree"] + 1) ** 2 == bands + 1

    def extent(values):
        return np.ptp(values.astype(np.float64), axis=0)

    assert (np.abs(again.means - splats.means) <= 0.51 * extent(splats.means) / (2**24 - 1) + 4e-6).all()
    assert (np.abs(again.dc - splats.dc) <= 0.51 * extent(splats.dc) / 65535 + 1e-6).all()
    sizes = splats.log_scales[:, :2]
    assert (np.abs(again.log_scales[:, :2] - sizes) <= 0.51 * extent(sizes) / 65535 + 1e-6).all()
    opacities = [1 / (1 + np.exp(-x.logits.astype(np.float64))) for x in (splats, again)]
    assert np.abs(opacities[0] - opacities[1]).max() < 1e-5
    turn = np.abs((again.quats * splats.quats).sum(1)).clip(max=1)
    assert np.degrees(2 * np.arccos(turn)).max() < 0.25
    if bands and count > 1:
        inner = np.abs(splats.rest) < np.quantile(np.abs(splats.rest), 0.99)
        assert np.abs(again.rest - splats.rest)[inner].max() <= 0.51 * extent(splats.rest).max() / 255


def test_equal_surfels_are_kept():
    splats = scattered(1).only(np.zeros(5, dtype=int))
    assert np.allclose(unpack(pack(splats, np.zeros(5, int), np.zeros(5, int))).means, splats.means)


COSTS = {"film": (9_000_000, 3_000_000, 1_000_000, 0), "frames": {0: 0, 1: 500_000, 3: 1_500_000}}


def cost(choice: Choice) -> int:
    surfels = int(choice.surfels * 100_000 * (26 + 3 * ((choice.degree + 1) ** 2 - 1)))
    return 50_000 + surfels + COSTS["film"][choice.film] + COSTS["frames"][choice.frames]


@given(st.integers(100_000, 20_000_000))
def test_what_is_chosen_fits_and_nothing_more_would(limit):
    most, least = Choice(3, 3, 0), 0.3
    if limit < cost(Choice(0, 0, 3, 0.3)):
        with pytest.raises(
            ValueError, match=r"--max-megabytes [0-9.e-]+ is too small.* Give ([0-9.]+) or more"
        ) as error:
            fitted(most, limit, cost, least)
        enough = float(re.search(r"Give ([0-9.]+)", str(error.value))[1])
        assert cost(fitted(most, int(enough * 1e6), cost, least)) <= enough * 1e6
        return
    choice = fitted(most, limit, cost, least)
    assert cost(choice) <= limit
    assert choice == most or left_out(choice, most, 100_000)
    for better in (
        dataclasses.replace(choice, degree=min(choice.degree + 1, 3)),
        dataclasses.replace(choice, film=max(choice.film - 1, 0)),
        dataclasses.replace(choice, frames={0: 1, 1: 3, 3: 3}[choice.frames]),
        dataclasses.replace(choice, surfels=min(choice.surfels + 0.001, 1)),
    ):
        assert better == choice or cost(better) > limit


def test_all_is_shown_where_there_is_room():
    most = Choice(2, 3, 3)
    assert fitted(most, 10**9, cost, 0.5) == most and left_out(most, most, 10) == []


def test_frames_come_back_from_a_contact_sheet():
    generator = torch.Generator().manual_seed(0)
    rgb, after = (torch.rand(8, 30, 50, 3, generator=generator) for _ in range(2))
    one, K, pose = torch.ones(8, 30, 50, 1), torch.eye(3).expand(8, 3, 3), torch.eye(4).expand(8, 4, 4)
    clip = Clip(rgb=rgb, depth=one, alpha=one, viewmats=pose, Ks=K)
    photos = References(rgb=rgb[:2], viewmats=pose[:2], Ks=K[:2])
    repaired = RepairedClip(rgb=after, disparity=one, confidence=one)
    sheet = contact_sheet(clip, repaired, photos, ["title"] * TITLE_LINES, ["a", "b"])
    pairs = frames_on_sheet(Image.open(io.BytesIO(encode_png(sheet))), TITLE_LINES)
    assert len(pairs) == 6 and all(before.size == later.size == pairs[0][0].size for before, later in pairs)
    small = torch.nn.functional.interpolate(rgb[:1].movedim(-1, 1), pairs[0][0].size[::-1], mode="bilinear")[0]
    assert np.abs(np.asarray(pairs[0][0]) / 255 - small.movedim(0, -1).numpy()).mean() < 0.02
    assert not np.array_equal(np.asarray(pairs[0][0]), np.asarray(pairs[0][1]))
    assert frames_on_sheet(Image.new("RGB", (400, 333)), TITLE_LINES) == []


def test_frames_of_a_video_are_its_halves(tmp_path):
    from genfusion_ns.data.media.clip_videos import write_video

    frames = torch.cat([torch.zeros(6, 32, 48, 3), torch.ones(6, 32, 48, 3)], dim=2)
    write_video(tmp_path / "clip_00.mp4", frames)
    (first, *_, last) = comparisons(tmp_path, 0, 3)
    for content, grey in ((first.rendered, 0), (last.repaired, 255)):
        picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
        assert picture.shape == (32, 48, 3) and np.abs(picture - grey).max() < 12
    assert comparisons(tmp_path, 1, 3) == []


def test_videos_are_found_and_made_smaller(tmp_path):
    from genfusion_ns.data.media.clip_videos import write_video
    from genfusion_ns.data.media.frame_sequences import VideoFile

    (tmp_path / "broken.mp4").write_bytes(b"half a video")
    assert find_film(tmp_path) is None
    noise = torch.rand(4, 600, 400, 3, generator=torch.Generator().manual_seed(0))
    write_video(tmp_path / "flight.mp4", noise)
    assert find_film(tmp_path) == tmp_path / "flight.mp4"
    whole = read_film(tmp_path / "flight.mp4")
    sizes = [len(whole)]
    for how in SMALLER:
        (tmp_path / "smaller.mp4").write_bytes(encoded_again(whole, how))
        video = VideoFile(tmp_path / "smaller.mp4")
        assert video.size[1] == how.lines and len(video) == 4
        sizes.append((tmp_path / "smaller.mp4").stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(ValueError, match="ffmpeg says"):
        encoded_again(b"no video", SMALLER[0])


def test_witnesses_see_what_is_in_front(run):
    pipeline = load_run(run / "config.yml")
    scene = pipeline.scene
    camera = ExportCamera(torch.eye(4), torch.tensor([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]]), (64, 48))
    middle = 2 * scene.near
    places = torch.tensor([[0.0, 0, middle], [0, 0, 3 * middle], [9 * middle, 0, middle], [0, 0, -middle]])
    with torch.no_grad():
        for name, parameter in scene.gauss_params.items():
            value = parameter[:4].clone()
            if name == "means":
                value = places
            elif name == "quats":
                value = torch.tensor([1.0, 0, 0, 0]).expand(4, 4).clone()
            elif name == "scales":
                value = torch.full((4, 3), middle).log()
            elif name == "opacities":
                value = torch.full((4, 1), 8.0)
            parameter.data = value
    told = []
    seen = witnesses(scene, [camera, camera], lambda done, of: told.append((done, of)))
    assert seen.photos.tolist() == [2, 0, 0, 0] and told == [(1, 2), (2, 2)]
    alpha = scene.render(camera.viewmat[None], camera.K[None], 64, 48).alpha.sum()
    assert torch.isclose(seen.weight.sum(), 2 * alpha, rtol=1e-4)
    assert seen.weight[0] > 3 * seen.weight[1] > 0 and (seen.weight[2:] == 0).all()


def test_rounds_are_read_and_damaged_ones_named(run, tmp_path):
    rounds, problems = rounds_of_run(run)
    assert [found.index for found in rounds] == [0, 1] and not problems
    record = json.loads((rounds[1].folder / "round.json").read_text())
    assert rounds[1].step == record["step"] and len(rounds[1].clips) == len(record["windows"])
    assert rounds[1].accepted == sum(window["accepted"] for window in record["windows"])
    assert max(rounds[1].accepted_frames(), default=0) < len(rounds[1].poses)
    copied = tmp_path / "run"
    shutil.copytree(run / "genfusion", copied / "genfusion")
    (copied / "genfusion" / "round_00" / "round.json").write_text('{"round": 0, "c2w": [[1, 2]]}')
    rounds, problems = rounds_of_run(copied)
    assert [found.index for found in rounds] == [1]
    assert len(problems) == 1 and "round_00" in problems[0]


def test_the_page_is_whole_and_says_what_it_shows(run, reported, tmp_path, capsys):
    path = write_report(ReportSettings(run, tmp_path / "a.html"))
    page = path.read_text()
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", page)
    assert "Nothing was left out" in page and f"{len(reported.splats):,} surfels" in page
    assert page.count('class="compare"') == 3 * sum(len(found.clips) for found in reported.content.rounds)
    assert "Round 1" in page and "was not evaluated" in page and "ns-train genfusion --data" in page
    assert [file.name for file in tmp_path.iterdir()] == ["a.html"]


def test_a_smaller_page_says_what_is_missing(run, reported, tmp_path, capsys):
    whole = len(reported.page(reported.most))
    path = write_report(ReportSettings(run, tmp_path / "a.html", max_megabytes=0.7 * whole / 1e6))
    assert path.stat().st_size <= 0.7 * whole
    assert "For the size of the file" in path.read_text()
    assert "To stay within" in capsys.readouterr().out


def test_text_of_a_run_stays_text(reported):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'"
    content = reported.content
    scene = {**content.scene, "cameras": [{**content.scene["cameras"][0], "name": evil}]}
    clip = dataclasses.replace(content.rounds[0].clips[0], reason=evil)
    setting = dataclasses.replace(content.setup.settings[0], words=(evil,), default=evil)
    reported_evil = object.__new__(type(reported))
    reported_evil.__dict__.update(reported.__dict__)
    reported_evil.content = dataclasses.replace(
        content,
        title=evil,
        run=evil,
        scene=scene,
        rounds=(dataclasses.replace(content.rounds[0], repairer=evil, clips=(clip,)),),
        problems=(evil,),
        evaluation_note=evil,
        setup=dataclasses.replace(content.setup, settings=(setting,), lines=(evil,)),
    )
    page = reported_evil.page(reported.most).decode()
    assert "<script>alert" not in page and "<img src=x" not in page and "&lt;script&gt;alert(1)" in page
    plain = reported.page(reported.most).decode()
    assert page.count("<script") == plain.count("<script") and page.count("</script") == plain.count("</script")


def test_figures_of_ns_eval(run, tmp_path):
    file = tmp_path / "eval.json"
    results = {"psnr": 21.234, "psnr_std": 1.5, "lpips": 0.25, "sharpness": 0.8, "train_views": ["a.png"]}
    results |= {"test_views": ["b.png", "c.png"], "split": "every 8th", "held_out": True}
    results |= {"seed_points": "visible", "num_seed_points": 1234, "seed_points_source": "sparse/0"}
    content = {"checkpoint": f"/x/{run.name}/nerfstudio_models/step-000000011.ckpt", "results": results}
    file.write_text(json.dumps(content))
    found = read_evaluation(file)
    assert [(figure.name, figure.value, figure.spread) for figure in found.figures] == [
        ("PSNR", "21.23", "1.50"),
        ("LPIPS (AlexNet)", "0.250", ""),
        ("Sharpness", "0.80", ""),
    ]
    assert found.step == 11 and dict(found.facts)["Seed points"] == "1,234 visible (sparse/0)"
    report = gathered(ReportSettings(run, metrics=file))
    page = report.page(report.most).decode()
    assert "± 1.50" in page and "every 8th" in page and "These figures are" not in page
    content["checkpoint"] = f"/x/{run.name}/nerfstudio_models/step-000000007.ckpt"
    file.write_text(json.dumps(content))
    assert "of step 7" in gathered(ReportSettings(run, metrics=file)).content.evaluation_note
    file.write_text('{"results": {}}')
    with pytest.raises(ValueError, match="psnr is missing"):
        gathered(ReportSettings(run, metrics=file))


def test_a_run_whose_generator_is_gone_is_shown(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    config = (copied / "config.yml").read_text()
    (model,) = re.findall(r"^    model: (.*generator.*)$", config, re.MULTILINE)
    (copied / "config.yml").write_text(config.replace(f"    model: {model}", "    model: /gone/generator"))
    page = write_report(ReportSettings(copied / "config.yml", tmp_path / "a.html")).read_text()
    assert "/gone/generator" in page


def test_what_cannot_be_reported_is_refused(run, tmp_path):
    output = tmp_path / "out" / "a.html"
    with pytest.raises(FileNotFoundError, match=r"is no run: .*config\.yml does not exist"):
        write_report(ReportSettings(tmp_path, output))
    with pytest.raises(ValueError, match=r"ends with \.html"):
        write_report(ReportSettings(run, tmp_path / "a.pdf"))
    with pytest.raises(ValueError, match="--max-megabytes is -1"):
        write_report(ReportSettings(run, output, max_megabytes=-1))
    with pytest.raises(FileNotFoundError, match=r"--video .*gone\.mp4 is not there"):
        write_report(ReportSettings(run, output, video=tmp_path / "gone.mp4"))
    (tmp_path / "no.mp4").write_bytes(b"no video at all")
    with pytest.raises(ValueError, match="no whole mp4"):
        write_report(ReportSettings(run, output, video=tmp_path / "no.mp4"))
    with pytest.raises(ValueError, match=r"is too small.* Give [0-9.]+ or more"):
        write_report(ReportSettings(run, output, max_megabytes=0.01))
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    shutil.rmtree(copied / "nerfstudio_models")
    (copied / "nerfstudio_models").mkdir()
    with pytest.raises(ValueError, match="holds none"):
        write_report(ReportSettings(copied, output))
    assert not output.parent.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write the report .*file/a\.html"):
        write_report(ReportSettings(run, tmp_path / "file" / "a.html"))
    output.parent.mkdir()
    output.write_text("mine")
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_report(ReportSettings(run, output))
    assert output.read_text() == "mine"


def test_runs_of_other_methods_are_refused(tmp_path):
    from nerfstudio.configs.method_configs import all_methods

    (tmp_path / "config.yml").write_text(yaml.dump(all_methods["splatfacto"]))
    with pytest.raises(ValueError, match=r"another method \(splatfacto\)"):
        write_report(ReportSettings(tmp_path, tmp_path / "a.html"))
