"""Training the compact network on procedural clips of toy size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genfusion_ns.data.clip_sampling import AugmentationConfig, ClipDataset, ClipSource
from genfusion_ns.data.clips import Provenance, write_pair
from genfusion_ns.data.procedural_clips import procedural_pair
from genfusion_ns.geometry.clip_pairs import ClipPair
from genfusion_ns.priors.compact import load_network
from genfusion_ns.priors.training import NetworkConfig, OptimisationConfig, build_network, train
from genfusion_ns.priors.validation import novel_frames, validate
from genfusion_ns.scripts.train_generator import TrainGeneratorConfig, main, read_config

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
    return ClipDataset([ClipSource(paths, 1.0)], augmentation, config.batch_size, config.steps, config.seed)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_training_improves_clips_it_has_not_seen(paths: list[Path], held_out: list[ClipPair], tmp_path: Path) -> None:
    report = train(batches(paths), held_out, tmp_path, TINY)
    assert report.psnr_repaired > report.psnr_artifact + 0.5
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

    broken = Interrupted(data.sources, data.augmentation, data.batch_size, data.batches, data.seed)
    with pytest.raises(KeyboardInterrupt):
        train(broken, held_out[:1], tmp_path / "parts", config)
    assert (tmp_path / "parts" / "checkpoint-3").is_dir()
    train(data, held_out[:1], tmp_path / "parts", config)
    whole, parts = (load_network(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert [path.name for path in (tmp_path / "parts").glob("checkpoint-*")] == ["checkpoint-6"]


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
    config = TrainGeneratorConfig(
        clips=paths[0].parent,
        output=tmp_path / "out",
        held_out_captures=("toy",),
        procedural=2,
        augmentation=AugmentationConfig(crop=(32, 32), frames=2),
        optimisation=replace(TINY, steps=2),
    )
    with pytest.raises(ValueError, match="all 8 clips"):
        main(config)
    with pytest.raises(ValueError, match=r"\['moon'\] are not in"):
        main(replace(config, held_out_captures=("moon",)))
    main(replace(config, held_out_captures=()))
    assert load_network(tmp_path / "out").config["reference_channels"] == 8
    written = read_config(tmp_path / "out" / "training.yaml")
    assert written == replace(config, held_out_captures=())


def test_config_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "generator.yaml"
    path.write_text("optimisation:\n  steps: 7\n  network: {channels: [16, 16, 32]}\nclips: some/folder\n")
    config = read_config(path)
    assert config.optimisation.steps == 7
    assert config.optimisation.network.channels == (16, 16, 32)
    assert config.clips == Path("some/folder")
    path.write_text("optimisation: {stepz: 7}\n")
    with pytest.raises(ValueError, match=r"generator\.yaml: optimisation: unknown keys \['stepz'\]"):
        read_config(path)
    with pytest.raises(FileNotFoundError, match="no such config file"):
        read_config(tmp_path / "none.yaml")


def test_the_shipped_config_is_valid() -> None:
    assert read_config(Path(__file__).resolve().parents[1] / "configs" / "generator" / "compact.yaml")
