"""Checkpoints that load safely and survive a failed write; learning-rate schedule; length of the run."""

import copy
import errno
import math
from dataclasses import replace

import pytest
import torch
from tiny_run import make_trainer

from genfusion_ns.methods import genfusion, genfusion_published
from genfusion_ns.models.optim import LogLinearDecayConfig
from genfusion_ns.models.run_length import usual_steps


@pytest.mark.parametrize("flag", ["mixed-precision", "use-grad-scaler"])
def test_half_precision_and_scaled_gradients_are_refused_with_the_reason(tmp_path, flag):
    config = replace(genfusion.config, output_dir=tmp_path, **{flag.replace("-", "_"): True})
    with pytest.raises(ValueError, match=f"--{flag} is True; surfels are rendered and trained in single precision"):
        config.setup(local_rank=0, world_size=1)


def test_a_failed_write_keeps_the_older_checkpoint_and_says_what_to_do(capture_folder, tmp_path, monkeypatch):
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=6)
    trainer.train()
    (older,) = trainer.checkpoint_dir.glob("*.ckpt")
    content = older.read_bytes()

    def disk_full(state, stream):
        stream.write(b"half of a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="load-dir"):
        trainer.save_checkpoint(7)
    assert older.read_bytes() == content
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == [older.name]
    assert not list(trainer.base_dir.glob("*partial*"))


def test_a_new_checkpoint_replaces_the_older_one_and_loads_safely(capture_folder, tmp_path):
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=6)
    trainer.train()
    trainer.save_checkpoint(9)
    (path,) = trainer.checkpoint_dir.glob("*.ckpt")
    assert path.name == "step-000000009.ckpt"
    state = torch.load(path, weights_only=True)
    assert isinstance(state["schedulers"]["means"]["_last_lr"][0], float)


def test_the_decay_is_log_linear_and_ends_with_the_run(capture_folder, tmp_path):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1e-2)
    scheduler = LogLinearDecayConfig(lr_final=1e-4, max_steps=10).setup().get_scheduler(optimizer, 1e-2)
    rates = []
    for _ in range(13):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(1e-2) and rates[5] == pytest.approx(1e-3)
    assert rates[10] == pytest.approx(1e-4) and rates[12] == pytest.approx(1e-4)
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=9)
    factor = trainer.optimizers.schedulers["means"].lr_lambdas[0]
    assert math.log(factor(9) / factor(0)) == pytest.approx(math.log(1.6e-6 / 1.6e-4))
    assert factor(8) > factor(9) == factor(20)


@pytest.mark.parametrize(("steps", "pace"), [(7000, 1.0), (26000, 1.0), (3500, 2.0), (1000, 6.0), (9, 6.0)])
def test_shapes_come_as_far_in_a_short_run_within_limits(steps: int, pace: float) -> None:
    for method, expected in ((genfusion, pace), (genfusion_published, 1.0)):
        group = copy.deepcopy(method.config.optimizers["scales"])
        group["scheduler"].max_steps = steps
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=group["optimizer"].lr)
        (factor,) = group["scheduler"].setup().get_scheduler(optimizer, group["optimizer"].lr).lr_lambdas
        assert [factor(0), factor(steps)] == pytest.approx([expected, expected])


@pytest.mark.parametrize(("steps", "pace"), [(7000, 1.0), (3500, 2.0), (1000, 3.0)])
def test_positions_come_further_in_a_short_run_and_end_as_slow(steps: int, pace: float) -> None:
    group = copy.deepcopy(genfusion.config.optimizers["means"])
    group["scheduler"].max_steps = steps
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=group["optimizer"].lr)
    (factor,) = group["scheduler"].setup().get_scheduler(optimizer, group["optimizer"].lr).lr_lambdas
    assert [factor(0), factor(steps)] == pytest.approx([pace, 0.01 * pace])


def test_a_rate_of_0_holds_what_it_is_for(capture_folder, tmp_path) -> None:
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=6)
    for name in ("scales", "means"):
        trainer.config.optimizers[name]["optimizer"].lr = 0.0
    schedulers = trainer.setup_optimizers().schedulers
    for name in ("scales", "means"):
        rates = schedulers[name]
        assert [rates.base_lrs[0] * rates.lr_lambdas[0](step) for step in (0, 6)] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "part", "key", "value", "flag"),
    [
        ("means", "scheduler", "lr_final", -1.0, "--optimizers.means.scheduler.lr-final is -1.0; allowed are .* 0 or"),
        ("features_dc", "optimizer", "lr", math.nan, "--optimizers.features-dc.optimizer.lr is nan"),
        ("quats", "scheduler", "most_pace", 0.0, "--optimizers.quats.scheduler.most-pace is 0.0; allowed are .* 1 or"),
    ],
)
def test_rates_that_cannot_train_are_refused(tmp_path, name, part, key, value, flag) -> None:
    config = replace(copy.deepcopy(genfusion.config), output_dir=tmp_path)
    setattr(config.optimizers[name][part], key, value)
    with pytest.raises(ValueError, match=flag):
        config.setup(local_rank=0, world_size=1)


def test_settings_of_the_scene_are_refused_before_photos_are_read(tmp_path) -> None:
    config = replace(copy.deepcopy(genfusion.config), output_dir=tmp_path / "runs", data=tmp_path / "nothing", vis="")
    config.pipeline.datamanager.data = tmp_path / "nothing"
    config.pipeline.model.largest_size = -1.0
    with pytest.raises(ValueError, match=r"--pipeline.model.largest-size is -1.0; allowed are numbers of 0 or more"):
        config.setup(local_rank=0, world_size=1).setup()


def test_surfels_that_are_too_large_shrink_while_training(capture_folder, tmp_path) -> None:
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=6)
    scene = trainer.pipeline.scene
    scene.gauss_params["scales"].data[0, :2] = 5.0
    others = scene.gauss_params["scales"].data[1:, :2].max()
    trainer.train()
    assert scene.gauss_params["scales"].data[:, :2].max() < others + 0.5 < 5.0


def test_a_rate_of_ones_own_does_not_decay(capture_folder, tmp_path) -> None:
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=9)
    trainer.config.optimizers["quats"]["optimizer"].lr = 0.02
    rates = trainer.setup_optimizers().schedulers["quats"]
    assert [rates.base_lrs[0] * rates.lr_lambdas[0](step) for step in (0, 9)] == pytest.approx([0.12, 0.12])


def test_resume_goes_on_to_the_given_length_with_the_same_state(capture_folder, tmp_path):
    first = make_trainer(capture_folder, tmp_path / "first", "none", steps=6)
    first.train()
    second = make_trainer(capture_folder, tmp_path / "second", "none", steps=9, load_dir=first.checkpoint_dir)
    assert second._start_step == 6
    before = first.pipeline.scene.strategy_state
    after = second.pipeline.scene.strategy_state
    assert torch.equal(before["grad2d"], after["grad2d"]) and torch.equal(before["count"], after["count"])
    assert second.pipeline.datamanager.sampler_state() == first.pipeline.datamanager.sampler_state()
    means = second.pipeline.scene.gauss_params["means"]
    assert torch.equal(means, first.pipeline.scene.gauss_params["means"])
    assert second.optimizers.optimizers["means"].param_groups[0]["params"][0] is means
    second.train()
    (path,) = second.checkpoint_dir.glob("*.ckpt")
    assert path.name == "step-000000008.ckpt"
    assert second.config.max_num_iterations == 9


def test_a_run_without_a_length_gets_one_that_suits_its_photos(capture_folder, tmp_path, capsys):
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=0)
    photos = len(trainer.pipeline.datamanager.train_names)
    assert trainer.config.max_num_iterations == usual_steps(photos) == 1000
    assert trainer.config.steps_per_save == 100
    assert trainer.pipeline.scene.schedule.sh_interval == round(1000 / 7)
    assert "1000 steps, which suit" in capsys.readouterr().out


def test_a_negative_length_is_refused(capture_folder, tmp_path):
    with pytest.raises(ValueError, match="--max-num-iterations is -1; give the number of steps, or 0"):
        make_trainer(capture_folder, tmp_path, "none", steps=-1)
