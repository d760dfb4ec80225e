"""Depth of the photos from a model as a loss: estimated once, kept in the run, the same after a resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from depth_models import save_depth_model
from tiny_model import generated_view, make_model
from tiny_run import make_trainer
from torch import Tensor

from genfusion_ns import methods
from genfusion_ns.fusion.photo_depth import FILE, MonoDepthConfig, PhotoDepth, PhotoDepths, photo_depths
from genfusion_ns.fusion.trainer import GenFusionTrainer
from genfusion_ns.models.surfel_model import GenFusionModel
from genfusion_ns.priors.config import RepairerConfig

NAMES = ("a.png", "b.png", "c.png")


def photos() -> list[dict[str, Any]]:
    """Three photos: bytes, with a mask, and with alpha."""
    generator = torch.Generator().manual_seed(0)
    image = (255 * torch.rand(40, 48, 3, generator=generator)).to(torch.uint8)
    mask = torch.ones(40, 48, 1, dtype=torch.bool)
    mask[:, :10] = False
    alpha = torch.rand(40, 48, 4, generator=generator)
    alpha[..., 3] = 1.0
    alpha[:20, :, 3] = 0.0
    return [{"image": image}, {"image": image, "mask": mask}, {"image": alpha}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_depth_model(tmp_path_factory.mktemp("depth") / "model")


def estimate(model: Path, folder: Path, earlier: tuple[Path, str] | None = None) -> PhotoDepths:
    config = MonoDepthConfig(model=str(model))
    config.check(RepairerConfig(model="none"), "cpu")
    return photo_depths(config, RepairerConfig(), photos(), NAMES, torch.device("cpu"), folder, earlier)


def test_disparity_is_brought_to_one_range_and_trusted_where_photos_show_something(model: Path, tmp_path: Path) -> None:
    made = estimate(model, tmp_path)
    for photo in made.photos:
        trusted = photo.disparity[photo.confidence > 0].float()
        assert -0.1 < trusted.quantile(0.02) < 0.1 and 0.9 < trusted.quantile(0.98) < 1.1
    assert made.photos[0].confidence.min() == 1
    assert made.photos[1].confidence[:, :10].max() == 0 and made.photos[1].confidence[:, 11:].min() == 1
    assert made.photos[2].confidence[:19].max() == 0 and made.photos[2].confidence[21:].min() == 1


def test_what_an_earlier_part_of_the_run_has_estimated_is_taken_over_unless_it_is_damaged(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = estimate(model, tmp_path / "first")
    (model / "model.safetensors").rename(model / "away")
    try:  # the model is not needed any more
        config = MonoDepthConfig(model=str(model))
        earlier = (tmp_path / "first", made.digest)
        taken = photo_depths(
            config, RepairerConfig(), photos(), NAMES, torch.device("cpu"), tmp_path / "second", earlier
        )
    finally:
        (model / "away").rename(model / "model.safetensors")
    assert (tmp_path / "second" / FILE).read_bytes() == (tmp_path / "first" / FILE).read_bytes()
    for before, after in zip(made.photos, taken.photos, strict=True):
        assert torch.equal(before.disparity, after.disparity) and torch.equal(before.confidence, after.confidence)
    (tmp_path / "first" / FILE).write_bytes(b"half")
    anew = estimate(model, tmp_path / "third", (tmp_path / "first", made.digest))
    assert "estimated anew" in capsys.readouterr().out
    assert anew.digest == made.digest, "by the same numbers"


def opaque_scene() -> GenFusionModel:
    """A scene that covers its view."""
    scene = make_model(background_color="black").train()
    with torch.no_grad():
        scene.gauss_params["opacities"].fill_(4.0)
        scene.gauss_params["scales"].add_(1.0)
    return scene


def test_the_loss_knows_no_scale_and_shift_and_nothing_of_what_is_not_trusted() -> None:
    scene, view = opaque_scene(), generated_view()
    render = scene.render(view.viewmat[None], view.K[None], *view.size)

    def loss(disparity: Tensor, confidence: Tensor, weight: float = 1.0) -> float:
        photo = PhotoDepth(disparity.half(), confidence.half())
        return PhotoDepths([photo], weight, "").losses(render, 0)["mono_depth"].item()

    everything = torch.ones(24, 32, 1)
    true = 1 / render.depth[0].detach().clamp_min(0.1)
    noise = torch.rand(24, 32, 1, generator=torch.Generator().manual_seed(0))
    assert loss(0.5 * true + 0.25, everything) < 1e-3 * loss(noise, everything)
    assert loss(noise, everything, 0.5) == pytest.approx(0.5 * loss(noise, everything), rel=1e-4)
    left = everything.clone()
    left[:, 16:] = 0
    other = torch.where(left > 0, noise, 1 - noise)
    assert loss(noise, left) == pytest.approx(loss(other, left), rel=1e-4) != loss(noise, everything)


def test_depth_of_another_size_is_brought_to_that_of_the_render() -> None:
    scene, view = opaque_scene(), generated_view()
    photo = PhotoDepth(torch.rand(48, 64, 1).half(), torch.ones(48, 64, 1).half())
    loss = PhotoDepths([photo], 1.0, "").losses(scene.render(view.viewmat[None], view.K[None], *view.size), 0)
    loss["mono_depth"].backward()
    assert torch.isfinite(scene.gauss_params["means"].grad).all() and scene.gauss_params["means"].grad.abs().max() > 0


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"model": "repairer"}, ValueError, "which compact does not; give a depth model"),
        (
            {"model": "no/such/folder"},
            FileNotFoundError,
            r"folder' is no folder here\. On a machine with",
        ),
        ({"model": "none", "weight": -1.0}, ValueError, r"--pipeline.mono-depth.weight is -1.0; it must be at least 0"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_read(
    settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        MonoDepthConfig(**settings).check(RepairerConfig(model="compact"), "cpu")


def test_a_folder_that_lacks_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"lacks config\.json"):
        MonoDepthConfig(model=str(tmp_path)).check(RepairerConfig(model="none"), "cpu")


def trainer_of(capture: Path, output: Path, model: Path, **options: Any) -> GenFusionTrainer:
    pipeline = replace(methods.genfusion.config.pipeline, mono_depth=MonoDepthConfig(model=str(model)))
    method = replace(methods.genfusion, config=replace(methods.genfusion.config, pipeline=pipeline))
    return make_trainer(capture, output, "none", steps=6, method=method, **options)


def test_a_run_learns_from_it_and_goes_on_with_the_same(capture_folder: Path, model: Path, tmp_path: Path) -> None:
    trainer = trainer_of(capture_folder, tmp_path / "a", model)
    trainer.train()
    losses = trainer.pipeline.get_train_loss_dict(5)[1]
    assert torch.isfinite(losses["mono_depth"])
    written = trainer.base_dir / "genfusion" / FILE
    resumed = trainer_of(capture_folder, tmp_path / "b", model, load_dir=trainer.checkpoint_dir)
    assert (resumed.base_dir / "genfusion" / FILE).read_bytes() == written.read_bytes()
    assert resumed.pipeline.get_extra_state()["mono_depth"] == trainer.pipeline.get_extra_state()["mono_depth"]


def test_without_a_model_nothing_changes(capture_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(capture_folder, tmp_path, "none", steps=6)
    assert "mono_depth" not in trainer.pipeline.get_train_loss_dict(0)[1]
    assert "mono_depth" not in trainer.pipeline.get_extra_state()
