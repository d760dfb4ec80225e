"""Evaluation by scale: one model, judged on images of several sizes.

Images carry their level as scale_label in the metadata of their cameras. Metrics are averaged over the images of a
level first, then over levels (Barron et al., "Mip-NeRF", section 4).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from PIL import Image
from rich.progress import track

from genfusion_ns.files import replacing
from genfusion_ns.geometry.images import to_bytes
from genfusion_ns.messages import say

_GROUPED = ("psnr", "ssim", "lpips", "lpips_vgg")


def average_error(psnr: float, ssim: float, lpips: float | None = None) -> float:
    """The geometric mean of three errors: 10^(-PSNR / 10), sqrt(1 - SSIM) and LPIPS; of the first two without LPIPS.

    >>> round(average_error(20, 0.75), 4)
    0.0707
    """
    errors = [10 ** (-psnr / 10), math.sqrt(max(1 - ssim, 0.0))] + ([] if lpips is None else [lpips])
    return math.exp(sum(math.log(max(error, 1e-12)) for error in errors) / len(errors))


def by_scale(images: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, Any]:
    """Results of a multi-scale evaluation.

    Args:
        images: level and metrics of each image; small ones may lack some.

    Returns:
        Means of each level as psnr_x1, psnr_x2, ... and of the levels as psnr; ``avg_error`` of the means over levels,
        or ``avg_error_nolpips`` where a level has no LPIPS; for how many images of a level a metric was left out.
    """
    levels = sorted({level for level, _ in images})
    results: dict[str, Any] = {}
    for name in _GROUPED:
        means, left_out = {}, Counter()
        for level in levels:
            values = [metrics[name] for other, metrics in images if other == level and name in metrics]
            missing = sum(other == level for other, _ in images) - len(values)
            if missing:
                left_out[f"x{2**level}"] = missing
            if values:
                means[level] = sum(values) / len(values)
        results |= {f"{name}_x{2**level}": mean for level, mean in means.items()}
        if means:
            results[name] = sum(means.values()) / len(means)
        if left_out and means:
            results[f"{name}_left_out"] = dict(left_out)
            if len(means) < len(levels):
                results[f"{name}_mean_of"] = [f"x{2**level}" for level in means]
    return results | _average_errors(results, levels)


def _average_errors(results: Mapping[str, Any], levels: Sequence[int]) -> dict[str, float]:
    has = {name: all(f"{name}_x{2**level}" in results for level in levels) for name in _GROUPED}
    if not has["ssim"]:
        return {}
    means = results["psnr"], results["ssim"]
    if has["lpips"]:
        return {"avg_error": average_error(*means, results["lpips"])}
    return {"avg_error_nolpips": average_error(*means)}


class ScaledEvaluation(VanillaPipeline):
    """The part of a pipeline that evaluates by scale where the data have several."""

    def get_average_image_metrics(  # type: ignore[override]
        self,
        data_loader: Iterable[tuple[Cameras, dict[str, Any]]],
        image_prefix: str,
        step: int | None = None,
        output_path: Path | None = None,
        get_std: bool = False,
    ) -> dict[str, Any]:
        """Mean metrics over images; nerfstudio's where all images are of one level.

        Args:
            data_loader: cameras with their photos.
            image_prefix: of the names of pictures.
            step: of the training.
            output_path: folder for pictures, of each scale in a folder 1, 2, 4, ... of its own.
            get_std: standard deviations as well, of each scale.
        """
        views = list(data_loader)
        if len({_level(camera) for camera, _ in views}) < 2:
            return super().get_average_image_metrics(views, image_prefix, step, output_path, get_std)
        self.eval()
        found: list[tuple[int, dict[str, float]]] = []
        for number, (camera, photo) in enumerate(track(views, "Evaluating by scale", transient=True)):
            level = _level(camera)
            outputs = self.model.get_outputs_for_camera(camera=camera)
            metrics, _ = self.model.get_image_metrics_and_images(outputs, photo)
            if output_path is not None:
                _write(outputs["rgb"], output_path / str(2**level) / f"{image_prefix}_{number:04d}.png")
            found.append((level, _as_published(metrics)))
        self.train()
        results = by_scale(found)
        for name in ("ssim", "lpips"):
            if f"{name}_left_out" in results:
                left = ", ".join(f"{count} of {scale}" for scale, count in results[f"{name}_left_out"].items())
                say(f"{name.upper()} is left out for images that are too small for it: {left}.", "yellow")
        return results | (_deviations(found) if get_std else {})


def _level(camera: Cameras) -> int:
    label = (camera.metadata or {}).get("scale_label")
    return 0 if label is None else int(label.flatten()[0])


def _as_published(metrics: Mapping[str, float]) -> dict[str, float]:
    """The finite ones; SSIM without the border, as the authors of mip-NeRF take it."""
    named = {**metrics, **({"ssim": metrics["ssim_valid"]} if "ssim_valid" in metrics else {})}
    return {name: value for name, value in named.items() if math.isfinite(value)}


def _deviations(images: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    found = {}
    for level in sorted({level for level, _ in images}):
        for name in _GROUPED:
            values = [metrics[name] for other, metrics in images if other == level and name in metrics]
            if len(values) > 1:
                found[f"{name}_x{2**level}_std"] = float(torch.tensor(values).std())
    return found


def _write(image: torch.Tensor, path: Path) -> None:
    with replacing(path, "the picture") as unfinished:
        Image.fromarray(to_bytes(image).numpy()).save(unfinished)
