"""Checkpoints of runs: any damage is noticed by whoever reads them, older ones without checksums still load."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.utils.eval_utils import eval_load_checkpoint
from tiny_run import make_trainer, without_checksums

from genfusion_ns.digests import digest_of
from genfusion_ns.errors import CheckpointError
from genfusion_ns.fusion.checkpoints import read_checkpoint, write_checkpoint
from genfusion_ns.fusion.trainer import GenFusionTrainer

MEANS = "_model.gauss_params.means"


@pytest.fixture(scope="module")
def trainer(capture_folder, tmp_path_factory) -> GenFusionTrainer:
    trainer = make_trainer(capture_folder, tmp_path_factory.mktemp("run"), "none", steps=6, sh_degree=0)
    trainer.train()
    return trainer


@pytest.fixture
def state(trainer) -> dict[str, Any]:
    """What the run has saved, for a test to change."""
    return without_checksums(torch.load(next(trainer.checkpoint_dir.glob("*.ckpt")), weights_only=True))


def resumed(trainer: GenFusionTrainer, path: Path) -> None:
    """Load a checkpoint as `ns-train --load-checkpoint` does, into a run that is there already."""
    trainer.config.load_checkpoint = path
    try:
        trainer._load_checkpoint()
    finally:
        trainer.config.load_checkpoint = None


def leaves(state: Any) -> list[torch.Tensor]:
    """All tensors of a state that hold anything."""
    if isinstance(state, torch.Tensor):
        return [state] if state.numel() else []
    entries = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return [leaf for entry in entries for leaf in leaves(entry)]


def test_every_flipped_bit_of_a_value_is_noticed(trainer, tmp_path):
    (path,) = trainer.checkpoint_dir.glob("*.ckpt")
    whole, content = digest_of(torch.load(path, weights_only=True)), path.read_bytes()
    chance, copy = random.Random(0), tmp_path / "step-000000005.ckpt"
    noticed, harmless = 0, 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        copy.write_bytes(damaged)
        try:
            state = read_checkpoint(copy)
            trainer.pipeline.load_pipeline(state["pipeline"], state["step"])
        except CheckpointError:
            noticed += 1
        else:  # a bit of the archive that says nothing, as in the padding between its members
            harmless += 1
            assert digest_of(torch.load(copy, weights_only=True)) == whole
    assert noticed > 150 and noticed + harmless == 200


def test_a_flipped_bit_is_noticed_by_whoever_renders(trainer, state, tmp_path):
    folder = tmp_path / "nerfstudio_models"
    write_checkpoint(state, folder / "step-000000005.ckpt")
    sealed = torch.load(folder / "step-000000005.ckpt", weights_only=True)
    sealed["pipeline"][MEANS].view(torch.int32)[0, 0] ^= 1
    torch.save(sealed, folder / "step-000000005.ckpt")
    config = type(trainer.config)(load_dir=folder)
    with pytest.raises(CheckpointError, match="checkpoint of step 5 is damaged: it does not fit its checksum"):
        eval_load_checkpoint(config, trainer.pipeline)


def test_each_part_counts(state):
    before = digest_of(state)
    for leaf in leaves(state):
        flat = leaf.reshape(-1).view(torch.uint8) if leaf.dim() else leaf.reshape(1).view(torch.uint8)
        kept = int(flat[-1])
        flat[-1] = kept ^ 1
        assert digest_of(state) != before
        flat[-1] = kept
    assert digest_of(state) == before
    assert digest_of({**state, "step": state["step"] + 1}) != before


def test_digests_tell_kinds_and_shapes_apart():
    values = [
        1,
        1.0,
        True,
        "1",
        b"1",
        None,
        [1],
        [[1]],
        {"a": 1},
        torch.zeros(2),
        torch.zeros(2, 1),
        torch.zeros(2).int(),
    ]
    assert len({digest_of(value) for value in values}) == len(values)
    assert digest_of((1, 2)) == digest_of([1, 2])
    with pytest.raises(TypeError, match="not of object"):
        digest_of([object()])


def test_a_checkpoint_without_checksums_loads_and_says_so(trainer, state, tmp_path, capsys):
    path = tmp_path / "step-000000005.ckpt"
    torch.save(state, path)
    resumed(trainer, path)
    assert "step 5 is of a version without checksums" in " ".join(capsys.readouterr().out.split())


def no_surfels(state: dict[str, Any]) -> None:
    for name in list(state["pipeline"]):
        if "gauss_params" in name:
            state["pipeline"][name] = state["pipeline"][name][:0]


def not_a_number(state: dict[str, Any]) -> None:
    state["pipeline"][MEANS][1, 2] = torch.nan


def other_moments(state: dict[str, Any]) -> None:
    state["optimizers"]["means"]["state"][0]["exp_avg"] = torch.zeros(3, 3)


def infinite_moments(state: dict[str, Any]) -> None:
    state["optimizers"]["quats"]["state"][0]["exp_avg_sq"][0] = torch.inf


def no_optimiser(state: dict[str, Any]) -> None:
    del state["optimizers"]["quats"]


def no_training(state: dict[str, Any]) -> None:
    state["pipeline"]["_extra_state"] = {}


def no_rng(state: dict[str, Any]) -> None:
    del state["pipeline"]["_extra_state"]["rng"]


def extra_text(state: dict[str, Any]) -> None:
    state["pipeline"]["_extra_state"] = "text"


def a_word_for_a_step(state: dict[str, Any]) -> None:
    state["step"] = "three"


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_surfels, "holds no scene: its numbers of surfels are"),
        (not_a_number, "values that are not finite, in _model.gauss_params.means"),
        (other_moments, r"exp_avg of the optimiser of means has shape \(3, 3\)"),
        (infinite_moments, "exp_avg_sq of the optimiser of quats has values that are not finite"),
        (no_optimiser, "it has optimizers of"),
        (no_training, "the state of its training lacks rng, strategy, supervision, views"),
        (no_rng, "the state of its training lacks rng"),
        (extra_text, "cannot be resumed"),
        (a_word_for_a_step, "cannot be resumed"),
    ],
)
def test_states_that_cannot_be_trained_on_from_are_refused(trainer, state, tmp_path, change, message, sealed):
    path = tmp_path / "models" / "step-000000005.ckpt"
    change(state)
    if sealed and isinstance(state["pipeline"]["_extra_state"], dict):
        write_checkpoint(state, path)
    else:
        path.parent.mkdir()
        torch.save(state, path)
    with pytest.raises(CheckpointError, match=message) as refused:
        resumed(trainer, path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("supervision", {}),
        ("supervision", "text"),
        ("rng", torch.zeros(3, dtype=torch.uint8)),
        ("views", "no json"),
        ("views", 3),
        ("strategy", {"grad2d": torch.zeros(2), "count": torch.zeros(2)}),
    ],
)
def test_a_broken_state_of_the_training_is_named(trainer, state, tmp_path, name, value):
    state["pipeline"]["_extra_state"][name] = value
    trainer.pipeline.set_extra_state(state["pipeline"]["_extra_state"])
    trainer.config.load_dir = tmp_path
    try:
        with pytest.raises(CheckpointError, match=f"checkpoint in {tmp_path} cannot be resumed: the state of its"):
            trainer.pipeline._restore(trainer.pipeline._loaded_state, trainer.config)
    finally:
        trainer.config.load_dir = None


def test_a_scene_that_has_diverged_does_not_replace_what_was_saved(capture_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=6, sh_degree=0)
    trainer.train()
    (path,) = trainer.checkpoint_dir.glob("*.ckpt")
    before = path.read_bytes()
    with torch.no_grad():
        trainer.pipeline.scene.gauss_params["scales"][0] = torch.nan
    with pytest.raises(FloatingPointError, match="scales of the scene have values that are not finite after step 7"):
        trainer.save_checkpoint(7)
    assert [other.read_bytes() for other in trainer.checkpoint_dir.iterdir()] == [before]
