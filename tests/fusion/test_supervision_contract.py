"""Every supervision keeps the promises of the interface: rounds, samples, and one that is written down here.

The last draws a camera at every step. It is selected by its settings alone; nothing in the package knows of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils.eval_utils import eval_setup
from tiny_run import make_trainer
from torch import Tensor
from view_priors import BlendConfig, save_toy_prior

from genfusion_ns.data.camera_conversion import cameras_to_viewmats
from genfusion_ns.fusion.config import FusionConfig
from genfusion_ns.fusion.contract import Supervision, SupervisionConfig, TrainingRun
from genfusion_ns.fusion.image_start.supervision import FadingViews
from genfusion_ns.fusion.samples.config import SampleConfig
from genfusion_ns.fusion.trainer import GenFusionTrainer
from genfusion_ns.seeds import seeded_generator


@dataclass
class BlurConfig(SupervisionConfig):
    """Settings of `Blur`."""

    weight: float = 0.1
    seed: int = 0

    def setup(self, run: TrainingRun) -> Supervision:
        return Blur(self, run)


class Blur(Supervision):
    """At every step, the scene at the camera of some photo shall look like its own blurred render."""

    def __init__(self, config: BlurConfig, run: TrainingRun) -> None:
        self.config, self.run = config, run
        self.order = seeded_generator(config.seed)
        self.drawn = 0

    def losses(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        cameras = self.run.datamanager.train_dataset.cameras
        viewmats, Ks = cameras_to_viewmats(cameras.to("cpu"))
        index = int(torch.randint(len(viewmats), (), generator=self.order))
        self.drawn += 1
        size = int(cameras.width[index]), int(cameras.height[index])
        render = self.run.scene.render(viewmats[index][None], Ks[index][None], *size)
        image = render.rgb[0].movedim(-1, 0)
        target = torch.nn.functional.avg_pool2d(image.detach(), 3, 1, 1)
        return {"blur": self.config.weight * (image - target).abs().mean()}, {"blur_camera": index}

    def state(self) -> dict[str, Any]:
        return {"order": self.order.get_state(), "drawn": self.drawn}

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        self.order.set_state(state["order"].cpu())
        self.drawn = int(state["drawn"])


@dataclass
class FadingConfig(BlurConfig):
    """Settings of `Blur` in a run of which some views were generated."""

    def setup(self, run: TrainingRun) -> Supervision:
        return FadingViews(Blur(self, run), frozenset({0, 2}), run.total_steps, final_weight=0.1)


@dataclass
class ReusedConfig(BlendConfig):
    """Samples that supervise several steps."""

    sample_every: int = 3
    reuse: int = 3


SUPERVISIONS: dict[str, type[SupervisionConfig]] = {
    "rounds": FusionConfig,
    "samples": SampleConfig,
    "samples of a blend": BlendConfig,
    "samples, reused": ReusedConfig,
    "blur": BlurConfig,
    "fading": FadingConfig,
}


@pytest.fixture(params=SUPERVISIONS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def trainer_of(kind, capture_folder, generator_folder, made_once):
    """`trainer_of(folder)` is a trainer with the supervision under test, set up for its first step."""

    def make(output: Path, steps: int = 12, load_dir: Path | None = None) -> GenFusionTrainer:
        fusion = None if kind == "rounds" else SUPERVISIONS[kind]()
        prior = made_once("prior", save_toy_prior) if kind == "samples" else generator_folder
        size = None if kind == "samples" else (32, 24)
        return make_trainer(
            capture_folder, output, str(prior), steps, load_dir=load_dir, fusion=fusion, resolution=size
        )

    return make


def losses_of(trainer: GenFusionTrainer, steps: range) -> list[dict[str, float]]:
    """What the supervision adds at these steps, before which it does what it does; the scene does not learn."""
    supervision, found = trainer.pipeline.supervision, []
    for step in steps:
        supervision.before_step(step)
        found.append({name: term.item() for name, term in supervision.losses(step)[0].items()})
    return found


def parameters_of(loss: Tensor) -> set[int]:
    """Parameters that the gradient of a loss reaches, by identity; not what densification measures it by."""
    found, ahead, seen = set(), [loss.grad_fn], set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(getattr(node, "variable", None), torch.nn.Parameter):
            found.add(id(node.variable))
        ahead += [following for following, _ in node.next_functions]
    return found


def trained_up_to(trainer: GenFusionTrainer, last: int) -> GenFusionTrainer:
    """Trained up to a step that is not the last one, with a checkpoint of it."""

    def stop(step: int) -> None:
        trainer.stop_training = step >= last

    trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], stop))
    trainer.train()
    return trainer


def test_its_state_gives_the_same_next_losses(trainer_of, tmp_path):
    first = trained_up_to(trainer_of(tmp_path / "first"), 6)
    expected = losses_of(first, range(7, 11))  # a round among them
    assert all(expected) and len({tuple(terms.values()) for terms in expected}) > 1
    torch.manual_seed(99)  # a new process knows nothing of the old generators
    second = trainer_of(tmp_path / "second", load_dir=first.checkpoint_dir)
    assert second._start_step == 7
    assert losses_of(second, range(7, 11)) == expected


def test_before_step_leaves_gradients_alone(trainer_of, tmp_path):
    trainer = trainer_of(tmp_path)
    scene, supervision = trainer.pipeline.scene, trainer.pipeline.supervision
    marked = {name: torch.full_like(value, 3.0) for name, value in scene.gauss_params.items()}
    for name, value in scene.gauss_params.items():
        value.grad = marked[name]
    for step in range(6):  # a round among them
        supervision.before_step(step)
    for name, value in scene.gauss_params.items():
        assert value.requires_grad and value.grad is marked[name] and bool((value.grad == 3.0).all()), name


def test_losses_are_finite_and_depend_on_the_scene_alone(trainer_of, tmp_path):
    trainer = trainer_of(tmp_path)
    pipeline = trainer.pipeline
    pipeline.train()
    for step in range(6):
        pipeline.supervision.before_step(step)
    losses, metrics = pipeline.supervision.losses(5)
    assert losses and not set(losses) & set(metrics)
    total = torch.stack(list(losses.values())).sum()
    assert bool(torch.isfinite(total)) and total.item() > 0
    reached = parameters_of(total)
    assert reached and reached <= {id(parameter) for parameter in pipeline.scene.parameters()}
    total.backward()
    assert float(pipeline.scene.gauss_params["means"].grad.abs().sum()) > 0


def test_its_terms_and_metrics_stand_beside_those_of_the_photo(trainer_of, tmp_path):
    pipeline = trainer_of(tmp_path).pipeline
    pipeline.train()
    for step in range(6):
        pipeline.supervision.before_step(step)
    ours, our_metrics = pipeline.supervision.losses(5)
    _, losses, metrics = pipeline.get_train_loss_dict(5)
    pipeline._supervision = Nothing()
    _, photo, photo_metrics = pipeline.get_train_loss_dict(5)
    assert ours and not set(photo) & set(ours) and not set(photo_metrics) & set(our_metrics)
    assert set(losses) == {*photo, *ours} and set(metrics) == {*photo_metrics, *our_metrics}


class Nothing(Supervision):
    """What is left out of an implementation has a body in the interface."""

    def losses(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        pass


def test_what_may_be_left_out_does_nothing(capture_folder, tmp_path):
    trainer, nothing = make_trainer(capture_folder, tmp_path, "none"), Nothing()
    nothing.before_step(0)
    assert (nothing.results, nothing.seconds_to_come(0), nothing.attach_panel(trainer)) == (0, 0.0, None)


def test_its_state_is_what_a_checkpoint_may_hold(trainer_of, tmp_path):
    trainer = trainer_of(tmp_path, steps=6)
    trainer.train()
    (path,) = trainer.checkpoint_dir.iterdir()
    held = torch.load(path, weights_only=True)["pipeline"]["_extra_state"]["supervision"]
    ours = trainer.pipeline.supervision.state()
    assert set(held) == set(ours)
    assert trainer.pipeline.supervision.seconds_to_come(6) >= 0


def test_a_run_without_training_has_none(trainer_of, kind, tmp_path):
    trainer = trainer_of(tmp_path, steps=5)
    trainer.config.save_config()
    trainer.train()
    _, pipeline, _, _ = eval_setup(trainer.base_dir / "config.yml")
    assert isinstance(pipeline.config.fusion, SUPERVISIONS[kind])
    with pytest.raises(ValueError, match="loaded to evaluate or render"):
        _ = pipeline.supervision
    pipeline.train()
    _, losses, _ = pipeline.get_train_loss_dict(5)
    assert losses and not {"blur", "generated_rgb", "sample_rgb"} & set(losses)


def test_damage_to_its_state_is_named(trainer_of, tmp_path):
    first = trainer_of(tmp_path / "first", steps=5)
    first.train()
    second = trainer_of(tmp_path / "second")
    second.pipeline._loaded_state = first.pipeline.get_extra_state() | {"supervision": {"nothing": "of it"}}
    with pytest.raises(ValueError, match="cannot be resumed: the state of its training is damaged"):
        second.pipeline._restore(second.pipeline._loaded_state, _Resumed(first.checkpoint_dir))


@dataclass
class _Resumed:
    load_dir: Path


def test_photos_count_as_much_as_it_says_and_at_most_in_full(trainer_of, kind, tmp_path):
    trainer = trainer_of(tmp_path)
    supervision, views = trainer.pipeline.supervision, range(len(trainer.pipeline.datamanager.train_names))
    weights = [supervision.photo_weight(step, view) for step in range(12) for view in views]
    assert all(0 < weight <= 1 for weight in weights) and weights[0] == 1
    assert (min(weights) < 1) == (kind == "fading")
