"""The stages of a run as commands that a user would type, and what each of them leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from genfusion_ns.data.from_photos.settings import CaptureFromPhotosSettings
from genfusion_ns.fusion.whole_run.choice import Choice

COMPACT_LIBRARY = "gaussforge"
"""What the compact file of splats needs."""


@dataclass(frozen=True)
class Places:
    """Where everything of a run lies."""

    out: Path

    @property
    def capture(self) -> Path:
        return self.out / "capture"

    @property
    def runs(self) -> Path:
        return self.out / "runs"

    def run(self, method: str) -> Path:
        """Folder of the training."""
        return self.runs / "scene" / method / "run"

    @property
    def metrics(self) -> Path:
        return self.out / "eval.json"

    @property
    def pictures(self) -> Path:
        return self.out / "eval"

    @property
    def flight(self) -> Path:
        return self.out / "flight.json"

    @property
    def video(self) -> Path:
        return self.out / "flight.mp4"

    @property
    def splat(self) -> Path:
        return self.out / "scene.ply"

    @property
    def compact(self) -> Path:
        return self.out / "scene.spz"

    @property
    def mesh(self) -> Path:
        return self.out / "scene_mesh.glb"

    @property
    def report(self) -> Path:
        return self.out / "report.html"


@dataclass(frozen=True)
class Stage:
    """One command, and what it leaves."""

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...]
    """Stages that it rests on."""
    products: tuple[Path, ...]
    """It is not done without them."""
    clear: tuple[Path, ...] = ()
    """Files and folders that go before it is begun anew."""


@dataclass(frozen=True)
class Trained:
    """What is trained, and how: what all stages but the first follow from."""

    data: str
    """Folder of the capture."""
    masked: bool
    """It has masks."""
    dataparser: str
    """Subcommand of ns-train that reads it."""
    flags: tuple[str, ...]
    """Of the subcommand."""
    choice: Choice
    extra: tuple[str, ...]
    """Further flags of ns-train."""


def capture_stage(places: Places, inputs: Sequence[str], settings: CaptureFromPhotosSettings) -> Stage:
    """Poses for videos and photos."""
    words = ("gf-capture", *inputs, str(places.capture), *_given(settings))
    return Stage("capture", words, (), (places.capture / "transforms.json",))


def train_stage(places: Places, trained: Trained, needs: tuple[str, ...]) -> Stage:
    """The training, from its beginning; see `with_checkpoints`."""
    choice, run = trained.choice, places.run(trained.choice.method)
    words = [
        *("ns-train", choice.method, "--data", trained.data, "--output-dir", str(places.runs)),
        *("--experiment-name", "scene", "--timestamp", "run", "--vis", "tensorboard"),
        *("--max-num-iterations", str(choice.steps)),
    ]
    if not choice.rounds:
        words += ["--pipeline.repairer.model", "none"]
    if trained.masked and "masked" in choice.method:
        words += ["--pipeline.datamanager.masking.source", "masks", "--pipeline.datamanager.train-every", "None"]
    if choice.test_every is not None:
        words += ["--pipeline.datamanager.test-every", str(choice.test_every)]
    words += [*trained.extra, *_reading(trained)]
    checkpoints = run / "nerfstudio_models"
    products = (run / "config.yml", checkpoints / f"step-{choice.steps - 1:09d}.ckpt")
    return Stage("train", tuple(words), needs, products, (places.runs / "scene",))


def with_checkpoints(words: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """The command of a training, from the checkpoints in a folder on."""
    return (*words[:2], "--load-dir", str(folder), *words[2:])


def later_stages(places: Places, method: str) -> list[Stage]:
    """All between the training and the report."""
    config = str(places.run(method) / "config.yml")

    def exported(name: str, kind: str, file: Path) -> Stage:
        words = ("gf-export", kind, "--load-config", config, "--output", str(file), "--overwrite")
        return Stage(name, words, ("train",), (file,), (file,))

    evaluate = (
        *("ns-eval", "--load-config", config, "--output-path", str(places.metrics)),
        *("--render-output-path", str(places.pictures)),
    )
    video = (
        *("ns-render", "camera-path", "--load-config", config, "--camera-path-filename", str(places.flight)),
        *("--output-path", str(places.video)),
    )
    left = (places.metrics, places.pictures)
    return [
        Stage("evaluate", evaluate, ("train",), (places.metrics,), left),
        Stage("video", video, ("train",), (places.video,), (places.video,)),
        exported("splat", "splat", places.splat),
        exported("compact", "splat", places.compact),
        exported("mesh", "mesh", places.mesh),
    ]


def report_stage(places: Places, method: str, title: str, has: Sequence[str]) -> Stage:
    """The page, of the stages that there are."""
    words = ["gf-report", str(places.run(method)), "--output", str(places.report), "--overwrite", "--title", title]
    if "video" in has:
        words += ["--video", str(places.video)]
    if "evaluate" in has:
        words += ["--metrics", str(places.metrics)]
    needs = ("train", *(name for name in ("evaluate", "video") if name in has))
    return Stage("report", tuple(words), needs, (places.report,), (places.report,))


def _given(settings: CaptureFromPhotosSettings) -> list[str]:
    """Flags of the settings that are not as usual."""
    words = []
    for field in fields(settings):
        value, usual = getattr(settings, field.name), field.default
        if usual is MISSING or value == usual:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    return words


def _reading(trained: Trained) -> list[str]:
    """The subcommand that reads the photos, at a part of their size; it is the last of a command."""
    factor = trained.choice.downscale
    if trained.dataparser == "blender-data":  # which knows no factor
        scale = () if factor is None else ("--pipeline.datamanager.camera-res-scale-factor", f"{1 / factor:.6g}")
        return [*scale, "blender-data"]
    words = [trained.dataparser, *trained.flags]
    if factor is not None:
        words += ["--downscale-factor", str(factor)]
    return words
