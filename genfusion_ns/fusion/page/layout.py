"""The page: text, styles, scripts and data in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from genfusion_ns import __version__
from genfusion_ns.fusion.page.figures import Evaluation
from genfusion_ns.fusion.page.packing import PackedSurfels
from genfusion_ns.fusion.page.rounds import Comparison, RecordedRound
from genfusion_ns.fusion.page.setup import Setup
from genfusion_ns.fusion.rounds.report import SCORES

_SCRIPTS = ("sort.js", "unpack.js", "camera.js", "viewer.js", "page.js")
_SHADERS = ("surfel.vert", "surfel.frag", "screen.vert", "screen.frag")


@dataclass(frozen=True)
class Content:
    """What a page says."""

    title: str
    method: str
    steps: int
    photos: int
    """Number of train photos."""
    run: str
    """Name of its folder."""
    scene: dict[str, Any]
    """See `genfusion_ns.fusion.page.scene`."""
    rounds: tuple[RecordedRound, ...]
    problems: tuple[str, ...]
    """Rounds that could not be read."""
    evaluation: Evaluation | None
    evaluation_note: str
    """Why there are no figures, or of which other scene they are."""
    setup: Setup
    surfels: PackedSurfels | None = None
    pictures: dict[tuple[int, int], list[Comparison]] = field(default_factory=dict)
    """By round and clip."""
    film: bytes | None = None
    left_out: tuple[str, ...] = ()


def page_of(content: Content) -> bytes:
    """The file. Whatever text a run brings along is shown as text."""
    script = "\n".join(_web(name) for name in _SCRIPTS)
    scene = {**content.scene, "surfels": content.surfels and content.surfels.header}
    shown = _template().render(
        content=content,
        version=__version__,
        score_names=SCORES,
        style=Markup(_web("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        shaders=_json({name: _web(name) for name in _SHADERS}),
        scene=_json(scene),
    )
    return shown.encode()


def _json(value: Any) -> Markup:
    """JSON that no HTML parser takes for the end of a script."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@cache
def _web(name: str) -> str:
    return (files("genfusion_ns.fusion.page") / "web" / name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = _base64
    return environment.from_string(_web("page.html.j2"))
