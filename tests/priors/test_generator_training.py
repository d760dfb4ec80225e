"""Training the compact network on procedural clips of toy size."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from full_disk import room_for
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from genfusion_ns.data.clips.pair_samples import AugmentationConfig, ClipDataset, PairSource
from genfusion_ns.data.clips.pairs import Provenance, read_pair, write_pair
from genfusion_ns.data.clips.procedural import procedural_pair
from genfusion_ns.data.clips.published import FrameSequencePair, write_published
from genfusion_ns.errors import CheckpointError
from genfusion_ns.files import WriteError, files_of
from genfusion_ns.fusion.generator_training import (
    TrainCompactConfig,
    TrainDynamiCrafterConfig,
    read_config,
    train_generator,
)
from genfusion_ns.fusion.training_data import HeldOutWindows, split_clips
from genfusion_ns.geometry.clips import ClipPair
from genfusion_ns.geometry.images import psnr
from genfusion_ns.priors.compact.conditioning import Target
from genfusion_ns.priors.compact.repairer import load_network
from genfusion_ns.priors.training import NetworkConfig, OptimisationConfig, build_network, train
from genfusion_ns.priors.training.checkpoints import save_checkpoint
from genfusion_ns.priors.training.compact import _log_error
from genfusion_ns.priors.training.curves import Curves
from genfusion_ns.priors.training.loop import build_accelerator
from genfusion_ns.priors.training.validation import novel_frames, ssim, validate
from genfusion_ns.scripts.train_generator import entrypoint

TINY = OptimisationConfig(
    steps=50,
    batch_size=1,
    learning_rate=2e-3,
    warmup=5,
    ema=0.9,
    validate_every=1000,
    checkpoint_every=1000,
    network=NetworkConfig(channels=(16, 16, 32), reference_channels=8),
)


CORRECTION = replace(TINY, network=replace(TINY.network, output="correction"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    made = [procedural_pair(torch.Generator().manual_seed(i), frames=4, size=(96, 64)) for i in range(8)]
    return [write_pair(folder, f"clip_{i}", pair, Provenance("toy", "none", i)) for i, pair in enumerate(made)]


@pytest.fixture(scope="module")
def held_out() -> list[ClipPair]:
    return [procedural_pair(torch.Generator().manual_seed(100 + i), frames=4, size=(96, 64)) for i in range(3)]


def batches(paths: list[Path], config: OptimisationConfig = TINY) -> ClipDataset:
    augmentation = AugmentationConfig(crop=(64, 48), frames=4)
    return ClipDataset(
        [PairSource(paths, 1.0)], augmentation, batch_size=config.batch_size, batches=config.steps, seed=config.seed
    )


@pytest.mark.parametrize(("config", "gain"), [(TINY, 0.25), (CORRECTION, 0.5)], ids=["selection", "correction"])
def test_training_improves_clips_it_has_not_seen(
    paths: list[Path], held_out: list[ClipPair], tmp_path: Path, config: OptimisationConfig, gain: float
) -> None:
    report = train(batches(paths, config), held_out, tmp_path, config)
    assert report.psnr_repaired > report.psnr_artifact + gain
    assert report.psnr_trusted > report.psnr_doubted + 1.0
    again = validate(load_network(tmp_path), held_out, seed=TINY.seed).report
    assert again.psnr_repaired == pytest.approx(report.psnr_repaired, abs=0.02)
    assert (tmp_path / "samples.png").is_file()


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    paths: list[Path], held_out: list[ClipPair], tmp_path: Path
) -> None:
    config = replace(TINY, steps=6, checkpoint_every=3)
    data = batches(paths, config)
    train(data, held_out[:1], tmp_path / "whole", config)

    class Interrupted(ClipDataset):
        def __getitem__(self, index: int) -> list[ClipPair]:
            if index == 4:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    broken = Interrupted(
        data.sources, data.augmentation, batch_size=data.batch_size, batches=data.batches, seed=data.seed
    )
    with pytest.raises(KeyboardInterrupt):
        train(broken, held_out[:1], tmp_path / "parts", config)
    assert (tmp_path / "parts" / "checkpoint-3").is_dir()
    (tmp_path / "parts" / "checkpoint-5").mkdir()  # as a kill while it was written leaves it
    train(data, held_out[:1], tmp_path / "parts", config)
    whole, parts = (load_network(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert [path.name for path in (tmp_path / "parts").glob("checkpoint-*")] == ["checkpoint-6"]


def test_the_head_learns_first_where_that_is_asked_for(
    paths: list[Path], held_out: list[ClipPair], tmp_path: Path
) -> None:
    config = replace(TINY, steps=3, ema=0.0, head_samples=3, weight_decay=0.0)
    torch.manual_seed(config.seed)
    network = build_network(config.network)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    train(batches(paths, config), held_out[:1], tmp_path, config, initial=network)
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert moved and all(key.startswith("selection.") for key in moved)
    config = replace(config, steps=4)
    train(batches(paths, config), held_out[:1], tmp_path, config, initial=network)
    assert network.state_dict()["selection.from_features.weight"].any(), "then the U-Net is heard, and can learn"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_training_with_a_checkpoint_from_which_it_goes_on(
    paths: list[Path], held_out: list[ClipPair], tmp_path: Path, number: signal.Signals
) -> None:
    config = replace(TINY, steps=4)
    data = batches(paths, config)
    train(data, held_out[:1], tmp_path / "whole", config)

    class Signalled(ClipDataset):
        def __getitem__(self, index: int) -> list[ClipPair]:
            if index == 1:
                signal.raise_signal(number)
            return super().__getitem__(index)

    broken = Signalled(
        data.sources, data.augmentation, batch_size=data.batch_size, batches=data.batches, seed=data.seed
    )
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        train(broken, held_out[:1], tmp_path / "parts", config)
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert [path.name for path in (tmp_path / "parts").glob("checkpoint-*")] == ["checkpoint-2"]
    train(data, held_out[:1], tmp_path / "parts", config)
    whole, parts = (load_network(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.fixture(scope="module")
def trained(paths: list[Path], held_out: list[ClipPair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of two steps with its checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    config = replace(TINY, steps=2)
    train(batches(paths, config), held_out[:1], folder, config)
    return folder


def test_every_file_of_a_checkpoint_is_checked_against_its_checksum(
    trained: Path, paths: list[Path], held_out: list[ClipPair], tmp_path: Path
) -> None:
    config = replace(TINY, steps=3)
    for source in files_of(trained / "checkpoint-2"):
        folder = tmp_path / source.name
        shutil.copytree(trained, folder)
        path = folder / "checkpoint-2" / source.relative_to(trained / "checkpoint-2")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 8
        path.write_bytes(content)
        before = {file: file.read_bytes() for file in files_of(folder)}
        with pytest.raises(CheckpointError, match=rf"{source.name} is damaged, it does not fit its checksum; delete"):
            train(batches(paths, config), held_out[:1], folder, config)
        path.unlink()
        with pytest.raises(CheckpointError, match=f"{source.name} is missing"):
            train(batches(paths, config), held_out[:1], folder, config)
        assert {file: file.read_bytes() for file in files_of(folder)} == {k: v for k, v in before.items() if k != path}


def test_a_checkpoint_without_checksums_still_loads_and_says_so(
    trained: Path, paths: list[Path], held_out: list[ClipPair], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path / "older")
    (tmp_path / "older" / "checkpoint.json").write_text('{"step": 2}')
    config = replace(TINY, steps=2)
    train(batches(paths, config), held_out[:1], tmp_path / "older", config)
    assert "checkpoint-2 is of a version without checksums" in capsys.readouterr().out


@pytest.mark.parametrize("size", [0, 20_000, 200_000])
def test_a_checkpoint_that_does_not_fit_leaves_the_older_one(trained: Path, tmp_path: Path, size: int) -> None:
    """Files of real size: torch, safetensors and pickle hide a full disk behind errors of their own."""
    output = tmp_path / "output"
    shutil.copytree(trained, output)
    before = {file: file.read_bytes() for file in files_of(output)}
    accelerator = build_accelerator(replace(TINY, precision="no"))
    accelerator.prepare(torch.nn.Linear(512, 512))
    with (
        room_for(size),
        pytest.raises(WriteError, match=r"cannot write the checkpoint .*checkpoint-3: .*free disk space"),
    ):
        save_checkpoint(accelerator, output, 3)
    assert {file: file.read_bytes() for file in files_of(output)} == before
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-2"]


def test_workers_prepare_what_the_training_would_have_prepared(
    paths: list[Path], held_out: list[ClipPair], tmp_path: Path
) -> None:
    curves = []
    for workers in (0, 2):
        config = replace(TINY, steps=5, workers=workers, accumulation=2)
        data = batches(paths, config)
        data.batches = config.batches(processes=1)
        train(data, held_out[:1], tmp_path / str(workers), config)
        curves.append((tmp_path / str(workers) / "training.jsonl").read_text())
    assert curves[0] == curves[1]
    losses = [json.loads(line)["loss"] for line in curves[0].splitlines()]
    assert len(set(losses)) == 5


def test_frames_at_a_photo_do_not_count_in_validation(held_out: list[ClipPair]) -> None:
    pair = held_out[0]
    assert novel_frames(pair).all()
    photos = replace(pair.references, viewmats=pair.artifact.viewmats[:3].clone())
    assert novel_frames(replace(pair, references=photos)).tolist() == [False, False, False, True]
    spoiled = pair.artifact.rgb.clone()
    spoiled[:3] = 0
    whole, part = (
        validate(build_network(TINY.network), [replace(p, references=photos)], seed=0, steps=1).report
        for p in (pair, replace(pair, artifact=replace(pair.artifact, rgb=spoiled)))
    )
    assert whole.psnr_artifact == part.psnr_artifact


def test_colours_that_the_loss_leaves_out_do_not_count_in_validation(held_out: list[ClipPair]) -> None:
    alpha = held_out[0].clean.alpha.clone()
    alpha[:, :, 48:] = 0.0
    pair = replace(held_out[0], clean=replace(held_out[0].clean, alpha=alpha), rendered=True)
    wrong = torch.where(alpha > 0, pair.clean.rgb, 1 - pair.clean.rgb)
    reports = [
        validate(build_network(TINY.network), [replace(p, clean=replace(p.clean, rgb=rgb))], seed=0, steps=1).report
        for p in (pair, replace(pair, rendered=False))
        for rgb in (pair.clean.rgb, wrong)
    ]
    assert reports[0] == reports[1], "a render's colours count where it covers"
    assert reports[2].psnr_artifact > reports[3].psnr_artifact + 1, "those of a photo count everywhere"
    nothing = replace(pair, clean=replace(pair.clean, alpha=torch.zeros_like(alpha)))
    assert validate(build_network(TINY.network), [nothing, pair], seed=0).report.psnr_artifact == pytest.approx(
        validate(build_network(TINY.network), [pair], seed=1).report.psnr_artifact
    )


def test_the_same_camera_is_known_in_any_unit(held_out: list[ClipPair]) -> None:
    pair = held_out[0]
    photos = replace(pair.references, viewmats=pair.artifact.viewmats[:3].clone())
    for unit in (1e-5, 1.0, 1e5):
        clean = replace(pair.clean, depth=unit * pair.clean.depth)
        artifact, references = (replace(x, viewmats=x.viewmats.clone()) for x in (pair.artifact, photos))
        for viewmats in (artifact.viewmats, references.viewmats):
            viewmats[:, :3, 3] *= unit
        references.viewmats[0, 0, 3] += 0.01 * unit  # as near as that, but elsewhere
        scaled = replace(pair, artifact=artifact, clean=clean, references=references)
        assert novel_frames(scaled).tolist() == [True, False, False, True]


def test_training_goes_on_from_a_given_network_of_any_size(
    paths: list[Path], held_out: list[ClipPair], tmp_path: Path
) -> None:
    initial = build_network(NetworkConfig(channels=(16, 16, 32), reference_channels=16, sigma_min=0.1))
    config = replace(TINY, steps=1, learning_rate=0.0)
    train(batches(paths, config), held_out[:1], tmp_path, config, initial=initial)
    loaded = load_network(tmp_path)
    assert loaded.config["sigma_min"] == 0.1
    weights = loaded.state_dict()
    assert all(torch.equal(weights[key], value.half().float()) for key, value in initial.state_dict().items())


def test_the_command_trains_on_a_folder_and_writes_its_config(paths: list[Path], tmp_path: Path) -> None:
    config = TrainCompactConfig(
        clips=paths[0].parent,
        output=tmp_path / "out",
        held_out_captures=("toy",),
        procedural=2,
        augmentation=AugmentationConfig(crop=(32, 32), frames=2),
        optimisation=replace(TINY, steps=2),
    )
    with pytest.raises(ValueError, match="all 8 clips"):
        train_generator(config)
    with pytest.raises(ValueError, match=r"\['moon'\] are not in"):
        train_generator(replace(config, held_out_captures=("moon",)))
    train_generator(replace(config, held_out_captures=()))
    assert load_network(tmp_path / "out").config["reference_channels"] == 8
    written = read_config(tmp_path / "out" / "training.yaml")
    assert written == replace(config, held_out_captures=())


def test_config_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "generator.yaml"
    path.write_text("optimisation:\n  steps: 7\n  network: {channels: [16, 16, 32]}\nclips: some/folder\n")
    config = read_config(path)
    assert isinstance(config, TrainCompactConfig)
    assert config.optimisation.steps == 7
    assert config.optimisation.network.channels == (16, 16, 32)
    assert config.clips == Path("some/folder")
    path.write_text("optimisation: {learning_rate: 1e-5, ema: 0}\ninitial: null")
    assert read_config(path).optimisation.learning_rate == 1e-5
    with pytest.raises(FileNotFoundError, match="no such config file"):
        read_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("optimisation: {stepz: 7}", r"generator\.yaml: optimisation: unknown keys \['stepz'\]"),
        ("optimisation: {steps: many}", r"generator\.yaml: optimisation: steps is 'many'; a whole number is needed"),
        ("optimisation: {steps: 7.5}", "steps is 7.5; a whole number"),
        ("optimisation: {betas: [0.9]}", r"betas is \[0.9\]; a list of 2, each entry a number, is needed"),
        ("optimisation: {precision: fp8}", "precision is 'fp8'; one of no, bf16, fp16 is needed"),
        ("optimisation: 7", "optimisation: found 7; keys and values"),
        ("resume: 1", "resume is 1; true or false"),
        ("clips: 3", "clips is 3; a path"),
        ("generator: large", "generator is 'large'; one of compact is needed"),
        ("a: [", "generator.yaml, line 1: expected the node content"),
        ("- a", "holds a list"),
        ("parent: none.yaml", r"none\.yaml, the parent of .*generator\.yaml: no such config file"),
        ("parent: [a]", "parent is .*; the path of a YAML file"),
        ("parent: generator.yaml", "is its own ancestor: generator.yaml -> generator.yaml"),
    ],
)
def test_config_files_with_mistakes(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "generator.yaml"
    path.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        read_config(path)


def test_settings_are_inherited_but_for_those_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    grandparent, parent, child = tmp_path / "a.yaml", tmp_path / "more" / "b.yaml", tmp_path / "c.yaml"
    grandparent.write_text(
        "generator: dynamicrafter\noutput: one\ninitial: base\noptimisation: {steps: 7, lora: {rank: 4}, fps: 10}\n"
    )
    parent.write_text("parent: ../a.yaml\noptimisation: {steps: 8}\n")
    child.write_text("parent: more/b.yaml\noptimisation: {lora: {alpha: 2}}\noutput: three\n")
    config = read_config(child)
    assert isinstance(config, TrainDynamiCrafterConfig)
    lora = config.optimisation.lora
    assert (config.optimisation.steps, config.optimisation.fps, lora.rank, lora.alpha) == (8, 10, 4, 2.0)
    assert (config.output, config.initial, config.parent) == (Path("three"), None, parent)
    assert read_config(parent).output == TrainDynamiCrafterConfig().output
    grandparent.write_text("parent: c.yaml\n")
    with pytest.raises(ValueError, match=r"its own ancestor: c\.yaml -> b\.yaml -> a\.yaml -> c\.yaml"):
        read_config(child)
    grandparent.write_text("optimisation: {stepz: 1}\n")
    with pytest.raises(ValueError, match=r"a\.yaml: optimisation: unknown keys"):
        read_config(child)


def test_a_training_starts_from_the_result_of_its_parent(paths: list[Path], tmp_path: Path) -> None:
    parent, child = tmp_path / "parent.yaml", tmp_path / "child.yaml"
    parent.write_text(
        f"clips: {paths[0].parent}\noutput: {tmp_path / 'one'}\nprocedural: 0\nprocedural_share: 0.0\n"
        "augmentation: {crop: [32, 32], frames: 2}\n"
        "optimisation: {steps: 1, batch_size: 1, ema: 0, warmup: 0, network: {channels: [16, 16, 32]}}\n"
    )
    child.write_text(
        f"parent: parent.yaml\noutput: {tmp_path / 'two'}\noptimisation: {{steps: 2, learning_rate: 0.0}}\n"
    )
    with pytest.raises(
        FileNotFoundError, match=r"parent\.yaml has not been trained.*Run gf-train-generator .*parent\.yaml"
    ):
        train_generator(read_config(child))
    train_generator(replace(read_config(parent), resume=False))
    train_generator(read_config(child))
    weights = [load_network(tmp_path / name).state_dict() for name in ("one", "two")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert read_config(tmp_path / "two" / "training.yaml") == read_config(child)
    with pytest.raises(ValueError, match=r"would start from .*two and write to it"):
        train_generator(replace(read_config(child), initial=str(tmp_path / "two")))
    (tmp_path / "one" / "checkpoint.json").write_text('{"step": 0}')
    with pytest.raises(ValueError, match="trained for 0 of 1 steps"):
        train_generator(read_config(child))


def test_clips_are_held_out_by_capture_in_both_layouts(paths: list[Path], tmp_path: Path) -> None:
    folder = paths[0].parent
    split = split_clips(folder, (), limit=12)
    assert split.held_out == paths[:1]
    assert split.training == paths[1:]
    frames = torch.rand(3, 64, 96, 3, generator=torch.Generator().manual_seed(0))
    disparity = frames.mean(-1, keepdim=True)
    for scene in ("castle", "garden"):
        write_published(tmp_path / scene, 0, FrameSequencePair(frames, disparity, frames, disparity))
    split = split_clips(tmp_path, ("garden",), limit=12)
    assert (split.training, split.held_out) == ([tmp_path / "castle"], [tmp_path / "garden"])
    with pytest.raises(ValueError, match=r"\['moon'\] are not in .*'castle', 'garden'"):
        split_clips(tmp_path, ("moon",), limit=12)
    with pytest.raises(ValueError, match="all 2 clips"):
        split_clips(tmp_path, ("castle", "garden"), limit=12)


def test_held_out_windows_do_not_count_their_photo(paths: list[Path]) -> None:
    clean = read_pair(paths[0]).clean
    (last,) = HeldOutWindows(paths[:1], size=(64, 64), frames=3, limit=5)
    (whole,) = HeldOutWindows(paths[:1], size=(64, 64), frames=16, limit=5)
    assert last.novel.tolist() == [True, True, True]
    assert whole.novel.tolist() == [False, True, True, True]
    for window in (last, whole):
        assert torch.equal(window.photo, clean.rgb[0])
        assert torch.equal(window.clean[-1, ..., :3], clean.rgb[-1, :, 16:80])  # the middle of 96 x 64 pixels
        known = window.known[..., 0]
        nearest = clean.depth[-len(known) :, :, 16:80, 0][known].min()
        assert bool(((window.clean[..., 3] == 1) & known).any())
        assert float(clean.depth[-len(known) :, :, 16:80, 0][window.clean[..., 3] == 1].min()) == pytest.approx(nearest)
        assert window.artifact.shape == (len(known), 64, 64, 4)


def test_a_dynamicrafter_generator_needs_a_start_and_clips(tmp_path: Path) -> None:
    config = TrainDynamiCrafterConfig(output=tmp_path)
    config.optimisation.precision = "no"
    with pytest.raises(FileNotFoundError, match="give --initial FOLDER, which gf-convert-generator"):
        train_generator(config)
    with pytest.raises(ValueError, match="--clips is missing"):
        train_generator(replace(config, initial="somewhere"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "--optimisation.steps is 0; at least 1"),
        ({"batch_size": 0}, "--optimisation.batch-size is 0"),
        ({"learning_rate": float("nan")}, "learning-rate is nan"),
        ({"clip_norm": 0.0}, "clip-norm is 0.0"),
        ({"ema": 1.0}, "ema is 1.0"),
    ],
)
def test_settings_that_no_training_can_have(changes: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(TINY, **changes).check()


def test_the_learning_rate_rises_and_falls() -> None:
    config = replace(TINY, steps=30, warmup=10, learning_rate=2.0)
    assert [config.rate(step) for step in (1, 5, 10)] == pytest.approx([0.2, 1.0, 2.0])
    assert config.rate(21) == pytest.approx(1.0)
    assert config.rate(30) == pytest.approx(0.0, abs=0.02)
    assert replace(config, schedule="constant").rate(30) == 2.0


def test_a_diverging_training_ends_with_the_way_out(
    paths: list[Path], held_out: list[ClipPair], tmp_path: Path
) -> None:
    network = build_network(TINY.network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"the loss of step 1 is nan.*learning-rate"):
        train(batches(paths), held_out, tmp_path, TINY, initial=network)


def test_curves_of_a_resumed_training_have_each_step_once(tmp_path: Path) -> None:
    lines = ['{"step": 1, "loss": 3}', '{"step": 2, "loss": 2}', '{"step": 3, "loss": 1}', '{"st']
    (tmp_path / "training.jsonl").write_text("\n".join(lines))
    with Curves(tmp_path, first=2) as curves:
        curves.train(3, loss=0.5, gradient_norm=None)
        for _ in range(2):
            curves.validate(3, {"psnr": 20.0}, torch.zeros(4, 4, 3))
    read = lambda name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]  # noqa: E731
    assert [entry["step"] for entry in read("training.jsonl")] == [1, 2, 3]
    assert read("training.jsonl")[-1] == {"step": 3, "loss": 0.5, "gradient_norm": None}
    assert read("validation.jsonl") == [{"step": 3, "psnr": 20.0}]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [3]
    assert events.Scalars("validation/psnr")[0].value == 20.0
    assert events.Images("samples")[0].width == 4


def test_validation_measures_what_other_implementations_do() -> None:
    generator = torch.Generator().manual_seed(0)
    images, truth = (torch.rand(2, 24, 32, 3, generator=generator) for _ in range(2))
    planes = [x.permute(0, 3, 1, 2) for x in (images, truth)]
    assert float(psnr((images - truth).square().mean())) == pytest.approx(
        float(PeakSignalNoiseRatio(data_range=1.0)(*planes)), abs=1e-4
    )
    assert ssim(truth, truth) == pytest.approx(1.0)
    left = (torch.arange(32) < 16).view(1, 1, 32, 1).expand(2, 24, 32, 1)
    half_wrong = torch.where(left, truth, images)
    assert ssim(half_wrong, truth, left) == pytest.approx(1.0)
    assert ssim(half_wrong, truth) < ssim(half_wrong, truth, left)
    assert ssim(images, truth) == pytest.approx(
        float(StructuralSimilarityIndexMeasure(data_range=1.0)(*planes)), abs=1e-6
    )


def test_options_count_more_than_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "generator.yaml"
    path.write_text(f"output: {tmp_path / 'out'}\noptimisation: {{steps: 3, batch_size: 0}}\n")
    for options, said in (
        ([], "--optimisation.batch-size is 0; at least 1 is needed"),
        (["--optimisation.batch-size", "1", "--optimisation.steps", "0"], "--optimisation.steps is 0"),
        (["--initial", str(tmp_path / "out")], "would start from"),
    ):
        monkeypatch.setattr("sys.argv", ["gf-train-generator", str(path), *options])
        with pytest.raises(SystemExit, match=f"gf-train-generator: .*{said}"):
            entrypoint()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["compact", "dynamicrafter_512x320", "dynamicrafter_960x512"])
def test_the_shipped_configs_are_valid(name: str) -> None:
    config = read_config(Path(__file__).resolve().parents[2] / "configs" / "generator" / f"{name}.yaml")
    assert config.generator == name.split("_")[0]
    if isinstance(config, TrainDynamiCrafterConfig):
        assert name.endswith("x".join(str(side) for side in config.optimisation.size))
        assert config.optimisation.batches(processes=2) == config.optimisation.steps * 4


def test_the_logarithm_counts_decibels() -> None:
    clean = torch.zeros(2, 4, 3, 8, 8)
    known = torch.ones(2, 1, 3, 8, 8, dtype=torch.bool)
    known[1, ..., 4:] = False
    error = torch.stack([torch.full((3, 3, 8, 8), 0.1), torch.full((3, 3, 8, 8), 0.4)]) * known
    target = Target(clean, known, known)
    first, second = _log_error(error, target)
    assert torch.allclose(first, torch.tensor(0.01 + 1e-4).log())
    assert torch.allclose(second, torch.tensor(0.16 + 1e-4).log()), "unknown pixels do not count"
