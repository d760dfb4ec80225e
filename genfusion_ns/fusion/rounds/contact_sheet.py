"""One picture per clip that shows a round: what was rendered, what the repairer made of it, from which photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from nerfstudio.utils.colormaps import apply_float_colormap
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from genfusion_ns.geometry.clips import SOLID_ALPHA, Clip, References, RepairedClip
from genfusion_ns.geometry.depth import encode_disparity
from genfusion_ns.geometry.images import to_bytes

_COLUMNS = 6
_CELL_AREA = 200 * 120
_LABEL_WIDTH = 132
_LINE = 20
_GAP = 4
_INK, _PAPER = (20, 20, 20), (250, 250, 250)


@dataclass(frozen=True)
class Verdict:
    """A title line that says whether a clip is accepted, in green or red."""

    reason: str | None
    """Why it is rejected; None: it is accepted."""

    @property
    def ink(self) -> tuple[int, int, int]:
        """Colour of the line."""
        return (0, 120, 40) if self.reason is None else (190, 20, 20)

    def __str__(self) -> str:
        return "accepted" if self.reason is None else f"rejected: {self.reason}"


def contact_sheet(
    clip: Clip, repaired: RepairedClip, references: References, title: Sequence[str | Verdict], names: Sequence[str]
) -> Image.Image:
    """Rows of frames, labelled, under the title lines and above the photos that conditioned the repair.

    Args:
        clip: artifact clip.
        repaired: what the repairer made of it, of the same length and size.
        references: the photos given to the repairer.
        title: lines above the pictures.
        names: one name per photo.

    Returns:
        RGB image; frames are shrunk to a fixed area each, whatever their shape.
    """
    chosen = torch.linspace(0, len(clip) - 1, min(_COLUMNS, len(clip))).round().long()
    aspect = clip.size[0] / clip.size[1]
    cell = (round((_CELL_AREA * aspect) ** 0.5), round((_CELL_AREA / aspect) ** 0.5))
    rows = list(_rows(clip, repaired, chosen.to(clip.rgb.device)).items())
    columns = max(len(chosen), len(references))
    font = ImageFont.load_default(size=13)
    widest = max((round(font.getlength(str(line))) for line in title), default=0) + 2 * _GAP
    width = max(_LABEL_WIDTH + columns * (cell[0] + _GAP), widest)
    header = _LINE * (len(title) + 1)
    height = header + (len(rows) + 1) * (cell[1] + _GAP) + _LINE
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)

    for line, text in enumerate(title):
        ink = text.ink if isinstance(text, Verdict) else _INK
        draw.text((_GAP, _GAP + line * _LINE), str(text), fill=ink, font=font)
    for column, frame in enumerate(chosen.tolist()):
        draw.text((_column(column, cell), header - _LINE + 2), f"frame {frame}", fill=_INK, font=font)
    for row, (label, frames) in enumerate(rows):
        top = header + row * (cell[1] + _GAP)
        draw.text((_GAP, top + cell[1] // 2 - 8), label, fill=_INK, font=font)
        for column, frame in enumerate(frames):
            sheet.paste(_picture(frame, cell), (_column(column, cell), top))
    top = header + len(rows) * (cell[1] + _GAP)
    draw.text((_GAP, top + cell[1] // 2 - 8), "references", fill=_INK, font=font)
    for column, (photo, name) in enumerate(zip(references.rgb, names, strict=True)):
        sheet.paste(_picture(photo, cell), (_column(column, cell), top))
        draw.text((_column(column, cell), top + cell[1] + 2), _shortened(draw, font, name, cell[0]), _INK, font)
    return sheet


_ROWS_OF_FRAMES = 7
"""Rows of a sheet that show frames, the rendered and the repaired ones first."""


def frames_on_sheet(sheet: Image.Image, title_lines: int) -> list[tuple[Image.Image, Image.Image]]:
    """Rendered and repaired frames as a contact sheet shows them, in its order; none where it has another layout.

    Args:
        sheet: as `contact_sheet` made it.
        title_lines: how many there are above the pictures.
    """
    header = _LINE * (title_lines + 1)
    height, rest = divmod(sheet.height - header - _LINE, _ROWS_OF_FRAMES + 1)
    height -= _GAP
    if rest or height < 1:
        return []
    below = header + _ROWS_OF_FRAMES * (height + _GAP)
    pixels = np.asarray(sheet.convert("RGB").crop((_LABEL_WIDTH, header, sheet.width, below)))
    gaps = (pixels == _PAPER).all(axis=(0, 2)).nonzero()[0]  # columns of pixels that no frame covers
    if not len(gaps) or gaps[0] < 1:
        return []
    width = int(gaps[0])
    lefts = range(0, pixels.shape[1] - width + 1, width + _GAP)
    lefts = [left for left in lefts if not (pixels[:, left : left + width] == _PAPER).all()]
    cells = [[(left, top, left + width, top + height) for top in (0, height + _GAP)] for left in lefts]
    picture = Image.fromarray(pixels)
    return [(picture.crop(before), picture.crop(after)) for before, after in cells]


def encode_png(picture: Image.Image) -> bytes:
    """A PNG file of an RGB picture; OpenCV takes half of Pillow's time for a fifth more bytes."""
    done, content = cv2.imencode(".png", cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError(f"OpenCV could not encode a picture of {picture.width} x {picture.height} pixels as PNG")
    return content.tobytes()


def _rows(clip: Clip, repaired: RepairedClip, chosen: Tensor) -> dict[str, Tensor]:
    """Coloured [F, H, W, 3] or grey [F, H, W, 1] frames by label, of the chosen frames [F]."""
    covered = clip.alpha[chosen] > SOLID_ALPHA
    # A robust range: one floater before the lens must not turn the rest of the row into one colour.
    rendered = encode_disparity(clip.depth[chosen], covered, percentile=1.0).disparity
    before, after = clip.rgb[chosen], repaired.rgb[chosen]
    return {
        "rendered": before,
        "repaired": after,
        "|difference| x 2": 2 * (after - before).abs(),
        "coverage": clip.alpha[chosen],
        "confidence": repaired.confidence[chosen],
        "rendered disparity": apply_float_colormap(rendered, "turbo") * covered,
        "repaired disparity": apply_float_colormap(repaired.disparity[chosen].clamp(0, 1), "turbo"),
    }


def _column(column: int, cell: tuple[int, int]) -> int:
    return _LABEL_WIDTH + column * (cell[0] + _GAP)


def _picture(image: Tensor, cell: tuple[int, int]) -> Image.Image:
    """The image fitted into the cell with its own shape, on grey."""
    picture = Image.fromarray((to_bytes(image) if image.shape[-1] == 3 else to_bytes(image)[..., 0]).numpy())
    scale = min(cell[0] / picture.width, cell[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    fitted = picture.resize(size, Image.Resampling.BILINEAR).convert("RGB")
    if fitted.size == cell:
        return fitted
    framed = Image.new("RGB", cell, (128, 128, 128))
    framed.paste(fitted, ((cell[0] - fitted.width) // 2, (cell[1] - fitted.height) // 2))
    return framed


def _shortened(
    draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, text: str, width: int
) -> str:
    """The end of a name, which tells photos apart better than the folder it begins with."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength("..." + text, font=font) > width:
        text = text[1:]
    return "..." + text
