"""One picture of held-out views: the photo, the scene without the loop, the scene with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from genfusion_ns.data.captures.image_files import open_image

_INK, _PAPER, _GAP, _LINE = (20, 20, 20), (250, 250, 250), 6, 20
_CELL_WIDTH = 320


@dataclass(frozen=True)
class EvaluatedRun:
    """What `ns-eval --output-path FILE --render-output-path FOLDER` wrote of one run."""

    results: Mapping[str, object]
    """Metrics of all held-out views by name."""
    photos: list[UInt8[np.ndarray, "H W 3"]]
    """The held-out photos, in their order."""
    renders: list[UInt8[np.ndarray, "H W 3"]]
    """The same views of the scene."""

    @classmethod
    def read(cls, results: Path, images: Path) -> EvaluatedRun:
        """Read both back.

        Raises:
            FileNotFoundError: `images` holds no pictures of held-out views.
        """
        paths = sorted(images.glob("eval_img_*.png"))
        if not paths:
            raise FileNotFoundError(f"{images} holds no eval_img_*.png; write them with ns-eval --render-output-path")
        pairs = [_pixels(path) for path in paths]
        halves = [(pair[:, : pair.shape[1] // 2], pair[:, pair.shape[1] // 2 :]) for pair in pairs]
        return cls(
            json.loads(results.read_text(encoding="utf-8"))["results"],
            [photo for photo, _ in halves],
            [render for _, render in halves],
        )

    def scores(self) -> str:
        """PSNR, SSIM and, where it was measured, LPIPS of all held-out views in one line.

        >>> EvaluatedRun({"psnr": 24.104, "ssim": 0.8041, "lpips": 0.2132}, [], []).scores()
        '24.10 dB, SSIM 0.804, LPIPS 0.213'
        """
        words = [f"{self.results['psnr']:.2f} dB", f"SSIM {self.results['ssim']:.3f}"]
        if "lpips" in self.results:
            words.append(f"LPIPS {self.results['lpips']:.3f}")
        return ", ".join(words)


def _pixels(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    with open_image(path) as image:
        return np.asarray(image.convert("RGB"))


def held_out_sheet(without: EvaluatedRun, loop: EvaluatedRun, count: int = 3) -> Image.Image:
    """Rows of held-out views, evenly chosen, in three labelled columns; the scores are those of all held-out views.

    Args:
        without: the run without rounds.
        loop: the run with rounds, on the same photos.
        count: rows at most.

    Raises:
        ValueError: the two runs were judged by different views.
    """
    if [photo.shape for photo in without.photos] != [photo.shape for photo in loop.photos]:
        raise ValueError("the runs hold out different views; train both with the same split")
    chosen = np.unique(np.linspace(0, len(loop.photos) - 1, min(count, len(loop.photos))).round().astype(int))
    rows = [[images[i] for images in (loop.photos, without.renders, loop.renders)] for i in chosen]
    titles = (
        ("held-out photo", f"{len(loop.photos)} of them judge"),
        ("without the loop", without.scores()),
        ("with the loop", loop.scores()),
    )
    heights = [round(_CELL_WIDTH * row[0].shape[0] / row[0].shape[1]) for row in rows]
    header = 2 * _LINE + _GAP
    width = 3 * (_CELL_WIDTH + _GAP) + _GAP
    sheet = Image.new("RGB", (width, header + sum(heights) + _GAP * (len(rows) + 1)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for column, lines in enumerate(titles):
        for number, text in enumerate(lines):
            draw.text((_GAP + column * (_CELL_WIDTH + _GAP), _GAP + number * _LINE), text, fill=_INK, font=font)
    top = header + _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            picture = Image.fromarray(image).resize((_CELL_WIDTH, height), Image.Resampling.LANCZOS)
            sheet.paste(picture, (_GAP + column * (_CELL_WIDTH + _GAP), top))
        top += height + _GAP
    return sheet
