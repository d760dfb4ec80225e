"""One picture of what a job of `gf-make-clips` made: artifact, clean and difference of some clips."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from genfusion_ns.geometry.clips import ClipPair
from genfusion_ns.geometry.images import resize_images, to_bytes

_COLUMNS = 6
_CELL_AREA = 192 * 108
_LINE = 18
_GAP = 3


@dataclass
class Preview:
    """Collects clips; each becomes three rows of a sheet."""

    clips: list[tuple[str, Float[Tensor, "3 C h w 3"]]]

    def add(self, label: str, pair: ClipPair) -> None:
        """Remember a few small frames of a pair."""
        columns = torch.linspace(0, len(pair.artifact) - 1, min(_COLUMNS, len(pair.artifact))).round().long()
        aspect = pair.artifact.size[0] / pair.artifact.size[1]
        size = (max(1, round((_CELL_AREA * aspect) ** 0.5)), max(1, round((_CELL_AREA / aspect) ** 0.5)))
        artifact, clean = (clip.rgb[columns.to(clip.rgb.device)] for clip in (pair.artifact, pair.clean))
        rows = [resize_images(row.cpu(), size) for row in (artifact, clean, 2 * (artifact - clean).abs())]
        self.clips.append((label, torch.stack(rows)))

    def sheet(self) -> Image.Image:
        """Artifact, clean and twice their difference under each other, clip by clip."""
        font = ImageFont.load_default(size=13)
        _, columns, height, width, _ = self.clips[0][1].shape
        block = _LINE + 3 * (height + _GAP)
        page = Image.new("RGB", (columns * (width + _GAP), block * len(self.clips)), (250, 250, 250))
        draw = ImageDraw.Draw(page)
        for number, (label, rows) in enumerate(self.clips):
            top = number * block
            draw.text((_GAP, top + 1), f"{label}: artifact, clean, difference x 2", fill=(20, 20, 20), font=font)
            for row, frames in enumerate(rows):
                for column, frame in enumerate(frames):
                    place = (column * (width + _GAP), top + _LINE + row * (height + _GAP))
                    page.paste(Image.fromarray(to_bytes(frame).numpy()), place)
        return page
