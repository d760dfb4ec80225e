"""Files of settings and records whose values are replaced one by one: taken, or refused by name, nothing else."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from dynamicrafter_toys import ENCODER, PROJECTION, UNET, VAE
from json_fuzz import survey
from safetensors.torch import load_file, save_file
from tiny_run import save_toy_generator
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from genfusion_ns.data.camera_path import read_camera_path
from genfusion_ns.data.clips.pairs import Provenance, pack, read_provenance, write_pair
from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.data.clips.published import FrameSequencePair, list_published, write_published
from genfusion_ns.data.clips.shards import RECORD, ShardWriter, finished_shards, write_record
from genfusion_ns.data.crop_windows import load_crop_windows
from genfusion_ns.data.view_selection import load_split_file
from genfusion_ns.fusion.generator_training import TrainCompactConfig, TrainDynamiCrafterConfig, read_config
from genfusion_ns.json_files import JsonFileError, parse_json, path_inside, read_json
from genfusion_ns.priors.compact.repairer import load_network
from genfusion_ns.priors.dynamicrafter import loading
from genfusion_ns.priors.dynamicrafter.folder import check_pipeline_folder
from genfusion_ns.priors.dynamicrafter.image_projection import ImageProjection
from genfusion_ns.priors.dynamicrafter.pipeline import DynamiCrafterPipeline
from genfusion_ns.priors.dynamicrafter.scheduler import DynamiCrafterScheduler
from genfusion_ns.priors.dynamicrafter.unet import DynamiCrafterUNet
from genfusion_ns.priors.training.checkpoints import MARKER, checkpoint_step
from genfusion_ns.priors.training.curves import Curves
from genfusion_ns.scripts.bench_loop import read_results
from genfusion_ns.yaml_settings import to_plain

ORIGIN = Provenance("fox", "6 views", 3, stage=0.5, train_views=("a", "b"), frames=("a",), references=("b",), psnr=20.5)


def into(path: Path) -> Any:
    return lambda content: path.write_text(json.dumps(content))


def test_camera_paths(tmp_path: Path) -> None:
    frame = {"camera_to_world": [1, 0, 0, 0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], "fov": 50, "aspect": 1.5}
    content = {
        "camera_type": "perspective",
        "render_width": 96,
        "render_height": 64,
        "fps": 24,
        "camera_path": [frame] * 3,
    }
    path = tmp_path / "path.json"
    taken, refused = survey(content, into(path), lambda: read_camera_path(path).resampled(2), path)
    assert taken > 15 and refused > 400


def test_records_of_jobs(tmp_path: Path) -> None:
    pair = procedural_pair(torch.Generator().manual_seed(0), frames=2, size=(32, 24))
    writer = ShardWriter(tmp_path)
    writer.add("a", pack("a", pair, ORIGIN))
    write_record(tmp_path, writer.finish(), recipe={"views": [3]})
    record = tmp_path / RECORD
    _, refused = survey(json.loads(record.read_text()), into(record), lambda: finished_shards(tmp_path), tmp_path)
    assert refused > 100


def test_provenance_of_clips(tmp_path: Path) -> None:
    pair = procedural_pair(torch.Generator().manual_seed(0), frames=2, size=(32, 24))
    path = write_pair(tmp_path, "clip", pair, ORIGIN)
    content = json.loads(path.with_suffix(".json").read_text())
    del content["arrays"]
    survey(content, into(path.with_suffix(".json")), lambda: read_provenance(path), tmp_path / "clip.json")
    assert read_provenance(path) == ORIGIN


def test_lists_of_published_scenes(tmp_path: Path) -> None:
    half = torch.rand(3, 16, 16, 4)
    frames = FrameSequencePair(half[..., :3], half[..., 3:], half[..., :3], half[..., 3:])
    for name in ("a", "below/b"):
        write_published(tmp_path / "set" / name, 0, frames)
    write_published(tmp_path / "elsewhere", 0, frames)
    (tmp_path / "set" / "link").symlink_to("../elsewhere")
    path = tmp_path / "set" / "list.json"
    survey(["a", "below/b"], into(path), lambda: list_published(path), tmp_path / "set")
    assert len(list_published(path)) == 2
    for name in ("../elsewhere", str(tmp_path / "elsewhere"), "link", "a/../../elsewhere"):
        path.write_text(json.dumps(["a", name]))
        with pytest.raises(JsonFileError, match=r"list\.json: \[1\] is .*allowed: a path that stays inside"):
            list_published(path)


def test_protocols_of_masked_runs(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(4)]
    content = {"windows": {"0.png": [0, 0, 8, 4.0], "images/3.png": [1, 2, 3, 4]}, "train_ids": [0, 2], "test_ids": [1]}
    path = tmp_path / "protocol.json"
    taken, _ = survey(content, into(path), lambda: load_crop_windows(path, names, [(16, 12)] * 4, 0.25), path)
    assert taken > 80
    survey(content, into(path), lambda: load_split_file(path, names), path)


def test_configs_of_the_compact_network(tmp_path: Path) -> None:
    folder = save_toy_generator(tmp_path)
    config = folder / "config.json"
    extra = (3, 7, 2**14, [16, 16, 31], [16, 16, 64])
    survey(json.loads(config.read_text()), into(config), lambda: load_network(folder), config, extra, stride=3)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dynamicrafter generator with two stages of one layer."""
    folder = tmp_path_factory.mktemp("generator")
    ends: Any = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    small: Any = {"block_out_channels": [32, 64], "layers_per_block": 1, "norm_num_groups": 8}
    DynamiCrafterPipeline(
        unet=DynamiCrafterUNet(**(UNET | small)),
        vae=AutoencoderKL(**(VAE | ends | small)),
        image_encoder=CLIPVisionModelWithProjection(CLIPVisionConfig(**ENCODER)),
        image_projection=ImageProjection(**PROJECTION),
        scheduler=DynamiCrafterScheduler(),
        width=64,
        height=64,
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "name",
    ["model_index.json", "scheduler/scheduler_config.json"]
    + [f"{part}/config.json" for part in ("unet", "vae", "image_encoder", "image_projection")],
)
def test_configs_of_dynamicrafter_generators(generator: Path, name: str) -> None:
    config = generator / name
    part = config.parent.name

    def attempt() -> None:
        facts = check_pipeline_folder(generator)
        assert all(side % facts.size_multiple == 0 for side in facts.resolution)
        if part == "scheduler":
            scheduler: Any = DynamiCrafterScheduler.from_pretrained(config.parent)
            assert torch.isfinite(scheduler.alphas_cumprod).all() and torch.isfinite(scheduler.scales).all()
            assert len(scheduler.scales) == len(scheduler.alphas_cumprod) == len(scheduler)
        elif part != generator.name:
            loading._compare(config.parent, part)

    survey(json.loads(config.read_text()), into(config), attempt, config.parent, (7, [32, 32, 32], [32, 48]), stride=3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unet", ["os", "system"]),
        ("unet", ["hostile_module", "DynamiCrafterUNet"]),
        ("scheduler", ["genfusion_ns.priors.dynamicrafter.scheduler", "ConfigMixin"]),
        ("vae", ["hostile_module", "AutoencoderKL"]),
        ("safety_checker", ["hostile_module", "Anything"]),
        ("_class_name", ["hostile_module", "DynamiCrafterPipeline"]),
    ],
)
def test_an_index_names_the_classes_of_the_generator_alone(
    generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hostile_module.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    folder = tmp_path / "copy"
    shutil.copytree(generator, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {key: value}))
    with pytest.raises(ValueError, match=r"model_index\.json"):
        loading.load_pipeline(folder, torch.float32)
    assert not (tmp_path / "trace").exists()


def test_weights_in_several_files_lie_beside_their_index(generator: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(generator, folder)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    (tmp_path / "other.safetensors").write_bytes(b"")
    for name, said in (
        ("../../other.safetensors", "a path that stays inside"),
        ("missing.safetensors", "a file of weights beside the index: diffusion_pytorch_model.safetensors"),
        (7, r"weight_map\.a is 7"),
    ):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ValueError, match=rf"index\.json: .*{said}"):
            check_pipeline_folder(folder)


def test_weights_that_are_missing_are_not_made_up(generator: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(generator, folder)
    for part in ("unet", "vae", "image_projection"):
        path = folder / part / "diffusion_pytorch_model.safetensors"
        whole = load_file(path)
        save_file({name: tensor for name, tensor in whole.items() if not name.endswith("proj_out.bias")}, path)
        if part == "vae":
            save_file(dict(list(whole.items())[1:]), path)
        with pytest.raises(ValueError, match=rf"{part}.*[1-9] tensors missing"):
            loading.load_pipeline(folder, torch.float32)
        save_file(whole, path)
    assert loading.load_pipeline(folder, torch.float32).resolution == (64, 64)


@pytest.mark.parametrize("kind", ["compact", "dynamicrafter"])
def test_settings_of_trainings(tmp_path: Path, kind: str) -> None:
    config = TrainCompactConfig() if kind == "compact" else TrainDynamiCrafterConfig()
    content = to_plain(config)
    del content["parent"]  # errors name that file
    path = tmp_path / "settings.yaml"

    def read_and_check() -> None:
        read = read_config(path)
        with suppress(ValueError):  # which names the flag
            read.optimisation.check()

    survey(content, lambda value: path.write_text(yaml.safe_dump(value)), read_and_check, path, stride=5)
    assert read_config(path) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a]", "line 1: a value that contains itself"),
        ("a: 1\na: 2", "line 2: the key 'a' stands twice"),
        ("!!python/object/apply:os.system [ls]", "line 1: could not determine a constructor for the tag"),
        ("[" * 10**5, "is nested too deeply"),
        ("steps: " + "9" * 5000, "line 1: Exceeds the limit"),
        ("parent: 2026-99-99", "line 1: month must be"),
    ],
    ids=["itself", "twice", "tag", "deep", "number", "date"],
)
def test_settings_that_are_no_plain_yaml(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"settings\.yaml,? ?{said}"):
        read_config(path)


def test_steps_of_trainings(tmp_path: Path) -> None:
    marker = tmp_path / MARKER
    survey({"step": 7}, into(marker), lambda: checkpoint_step(tmp_path), marker)


def test_results_of_benches(tmp_path: Path) -> None:
    line = {"capture": "fox", "task": "3 views", "seed": 0, "repairer": "none", "psnr": 18.5, "seconds": 60}
    file = tmp_path / "results.jsonl"
    survey(line, into(file), lambda: read_results(tmp_path), file)
    assert list(read_results(tmp_path).values()) == [{"psnr": 18.5, "seconds": 60.0}]


def test_curves_drop_the_lines_that_cannot_be_read(tmp_path: Path) -> None:
    whole = [json.dumps({"step": step, "loss": 0.5}) for step in (1, 2, 3)]
    bad = [
        "",
        "{",
        "7",
        '"x"',
        "[]",
        '{"loss": 1}',
        '{"step": "1"}',
        '{"step": 1e999}',
        '{"step": [1]}',
        '{"step": true}',
    ]
    (tmp_path / "training.jsonl").write_text("\n".join([whole[0], *bad, *whole[1:]]) + "\n")
    with Curves(tmp_path, 2):
        pass
    assert (tmp_path / "training.jsonl").read_text().splitlines() == whole[:2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe{}", "cannot be read as JSON: 'utf-8'"),
        (b"{", "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b"[" * 10**5, "cannot be read as JSON: maximum recursion"),
        (b"9" * 5000, "cannot be read as JSON: Exceeds the limit"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "cannot be read as JSON: the key 'b' stands twice"),
    ],
)
def test_what_is_no_json(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    for attempt in (
        lambda: read_json(tmp_path / "x.json", "Do this."),
        lambda: parse_json(content, "x.json", "Do this."),
    ):
        with pytest.raises(JsonFileError, match=rf"x\.json {said}.* Do this\.$"):
            attempt()


def test_values_are_named_by_their_place() -> None:
    value = parse_json('{"a": [{"b": 1.5}, {"c": null}], "n": 3.0, "t": true}', "x.json", "Write it again.")
    first, second = value["a"].entries()
    assert first["b"].number() == 1.5 and value["n"].whole("n", 0) == 3 and value["t"].flag()
    assert not second["c"].is_given and not second["d"].is_given and first["b"].is_given
    for attempt, said in (
        (lambda: first["b"].whole("a count", 0), r"x\.json: a\[0\]\.b is 1\.5; allowed: a count\. Write it again\."),
        (lambda: second["d"].text(), r"x\.json: a\[1\]\.d is missing; allowed: text"),
        (lambda: second["c"].flag(), r"a\[1\]\.c is None; allowed: true or false"),
        (lambda: value["a"]["b"], r"x\.json: a is \[.*\]; allowed: an object"),
        (lambda: value["t"].number(), "t is True; allowed: a number"),
        (lambda: value["n"].choice(("p", "q")), "n is 3.0; allowed: p or q"),
        (lambda: value.text(), r"^x\.json is \{.*\}; allowed: text"),
    ):
        with pytest.raises(JsonFileError, match=said):
            attempt()


def test_paths_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    (tmp_path / "in" / "circle").symlink_to("circle")
    (tmp_path / "in" / "same").symlink_to(".")
    inside = tmp_path / "in"
    for name in ("a", "a/b", "./a", "same/a", "ä b"):
        assert path_inside(inside, name) == inside / name
    for name in (
        "/a",
        "..",
        "a/../../b",
        "out",
        "out/a",
        "circle/a",
        "C:/a",
        "C:a",
        "\\a",
        "a\\..\\..\\b",
        "a\0",
        "//h/s",
    ):
        assert path_inside(inside, name) is None, name
