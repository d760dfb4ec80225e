"""Pairs of pictures in a panel of the viewer, sent to the browser once."""

from __future__ import annotations

import base64
import io

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

_WIDTH = 560
"""Pixels of a picture pair; the sidebar is about 300 wide, twice that on fine screens."""
_QUALITY = 80
_FRAME_MS = 125


def panel_pictures(frames: UInt8[Tensor, "T H W 3"]) -> list[Image.Image]:
    """Pictures, shrunk to the width of a panel."""
    images = [Image.fromarray(frame) for frame in frames.numpy()]
    width = min(_WIDTH, images[0].width)
    size = width, max(1, round(images[0].height * width / images[0].width))
    return [image.resize(size) for image in images]


def side_by_side(uri: str, left: str, right: str) -> str:
    """A picture of two halves with a word under each, as markdown for viser."""
    half = '{{flex: 1, textAlign: "center", fontSize: "0.8em", opacity: 0.6}}'
    return (
        f'<div><img src="{uri}" style={{{{width: "100%", display: "block", borderRadius: "4px"}}}} />'
        f'<div style={{{{display: "flex"}}}}><span style={half}>{left}</span><span style={half}>{right}</span>'
        "</div></div>"
    )


def data_uri(images: list[Image.Image]) -> str:
    """WebP: one picture, or an animation that repeats for ever."""
    stream = io.BytesIO()
    images[0].save(
        stream,
        "WEBP",
        quality=_QUALITY,
        method=2,
        save_all=len(images) > 1,
        append_images=images[1:],
        duration=_FRAME_MS,
        loop=0,
    )
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
