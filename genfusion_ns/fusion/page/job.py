"""`gf-report`: gathers what a run has left, chooses what fits, writes the page."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Int

from genfusion_ns.exports.errors import check_output
from genfusion_ns.exports.splats import LEAST_LOGIT, Splats
from genfusion_ns.files import write_atomically
from genfusion_ns.fusion.exporting.progress import told
from genfusion_ns.fusion.exporting.splats import splats_of
from genfusion_ns.fusion.page.budget import LEAST_WEIGHT, Choice, fitted, left_out
from genfusion_ns.fusion.page.figures import Evaluation, find_evaluation, read_evaluation
from genfusion_ns.fusion.page.film import SMALLER, encoded_again, find_film, read_film
from genfusion_ns.fusion.page.layout import Content, page_of
from genfusion_ns.fusion.page.packing import PackedSurfels, pack
from genfusion_ns.fusion.page.rounds import Comparison, comparisons, rounds_of_run
from genfusion_ns.fusion.page.scene import photo_cameras, scene_facts
from genfusion_ns.fusion.page.settings import ReportSettings
from genfusion_ns.fusion.page.setup import setup_of
from genfusion_ns.fusion.page.witnesses import Witnesses, witnesses
from genfusion_ns.fusion.run_config import latest_checkpoint, load_run, read_run_config
from genfusion_ns.messages import say

_FRAMES = 3
"""Compared per clip where there is room."""


def write_report(settings: ReportSettings) -> Path:
    """Write the page of a run.

    Raises:
        ValueError: settings, a run, figures or a video that cannot be used, or a size in which nothing fits.
        OSError: a file is missing, the page exists, or cannot be written.
    """
    settings.check()
    check_output(settings.output, (".html",), settings.overwrite)
    run = gathered(settings)
    limit = int(1e6 * settings.max_megabytes)
    choice = fitted(run.most, limit, cache(lambda choice: len(run.page(choice))), run.least_share())
    content = run.page(choice)
    write_atomically(settings.output, content, "the report")
    for words in run.left_out(choice):
        say(f"To stay within {settings.max_megabytes:g} MB: {words}.")
    say(
        f"{settings.output}: {len(content) / 1e6:.1f} MB, {run.count(choice):,} surfels with harmonics of degree "
        f"{choice.degree}, {len(run.content.rounds)} rounds, {'a' if run.film and choice.film < 3 else 'no'} video."
    )
    return settings.output


class ReportedRun:
    """All that a page can show of a run, and pages that show a part of it."""

    def __init__(
        self, content: Content, splats: Splats, sides: Int[np.ndarray, " N"], seen: Witnesses, film: bytes | None
    ) -> None:
        """
        Args:
            content: without what is chosen.
            splats: all surfels of the run, with all degrees of harmonics that renders have.
            sides: from which sides they are shown.
            seen: what photos say about each of them.
            film: an mp4.
        """
        weight, photos = seen.weight.cpu().numpy(), seen.photos.cpu().numpy()
        order = np.argsort(-weight, kind="stable")
        order = order[splats.logits[order] >= LEAST_LOGIT]  # renders skip the others
        self.content, self.film = content, film
        self.splats, self._photos, self._weight = splats.only(order), photos[order], weight[order]
        self.sides = sides[order]
        frames = _FRAMES if any(found.clips for found in content.rounds) else 0
        self.most = Choice({0: 0, 3: 1, 8: 2, 15: 3}[splats.rest.shape[1]], frames, 0 if film else len(SMALLER) + 1)
        """Nothing is left out."""
        self._packed, self._pictures, self._encoded = cache(self._pack), cache(self._compare), cache(self._encode)

    def least_share(self) -> float:
        """Share of the surfels that make up `LEAST_WEIGHT` of the photos."""
        sums = self._weight.astype(np.float64).cumsum()
        return min(1.0, (int(np.searchsorted(sums, LEAST_WEIGHT * sums[-1])) + 1) / len(sums))

    def count(self, choice: Choice) -> int:
        """Surfels on a page."""
        return max(1, round(choice.surfels * len(self.splats)))

    def left_out(self, choice: Choice) -> list[str]:
        """What a page does not show for its size, in words."""
        return left_out(choice, self.most, len(self.splats))

    def page(self, choice: Choice) -> bytes:
        """The whole file."""
        return page_of(
            replace(
                self.content,
                surfels=self._packed(choice.degree, self.count(choice)),
                pictures=self._pictures(choice.frames),
                film=self._encoded(choice.film),
                left_out=tuple(self.left_out(choice)),
            )
        )

    def _pack(self, degree: int, count: int) -> PackedSurfels:
        chosen = np.arange(len(self.splats)) < count
        return pack(self.splats.only(chosen).up_to_degree(degree), self._photos[chosen], self.sides[chosen])

    def _compare(self, frames: int) -> dict[tuple[int, int], list[Comparison]]:
        """By round and clip."""
        clips = [(found, clip.number) for found in self.content.rounds for clip in found.clips] if frames else []
        return {(found.index, number): comparisons(found.folder, number, frames) for found, number in clips}

    def _encode(self, level: int) -> bytes | None:
        if self.film is None or level > len(SMALLER):
            return None
        return encoded_again(self.film, SMALLER[level - 1]) if level else self.film


def gathered(settings: ReportSettings) -> ReportedRun:
    """All that a page of this run can show.

    Raises:
        ValueError, OSError: see `write_report`.
    """
    file = settings.config_file()
    config, folder = read_run_config(file), file.parent
    film = settings.video or find_film(folder)
    film_content = None if film is None else read_film(film)
    evaluation, note = _evaluation(settings, folder)
    pipeline = load_run(file)
    rounds, problems = rounds_of_run(folder)
    for problem in problems:
        say(problem, "yellow")
    cameras = photo_cameras(pipeline)
    with told("Photos") as advance:
        seen = witnesses(pipeline.scene, cameras, advance)
    step = int(latest_checkpoint(file, config).stem.removeprefix("step-"))
    content = Content(
        title=settings.title or config.experiment_name or folder.name,
        method=str(config.method_name),
        steps=step + 1,
        photos=len(cameras),
        run=folder.name,
        scene=scene_facts(pipeline, cameras, rounds),
        rounds=tuple(rounds),
        problems=tuple(problems),
        evaluation=evaluation,
        evaluation_note=note or _of_other(evaluation, folder, step),
        setup=setup_of(config, [found.folder for found in rounds]),
    )
    splats = splats_of(pipeline.scene).up_to_degree(pipeline.scene.drawn_degree)
    return ReportedRun(content, splats, pipeline.scene.shown_sides().cpu().numpy(), seen, film_content)


def _evaluation(settings: ReportSettings, folder: Path) -> tuple[Evaluation | None, str]:
    """Figures, and why there are none."""
    found = settings.metrics or find_evaluation(folder)
    if found is None:
        return None, "The run was not evaluated, or its figures lie elsewhere (--metrics)."
    return read_evaluation(found), ""


def _of_other(evaluation: Evaluation | None, folder: Path, step: int) -> str:
    """What there is to say where figures are not those of the scene that is shown."""
    if evaluation is None:
        return ""
    if evaluation.run and evaluation.run != folder.name:
        return f"These figures are of the run {evaluation.run}, not of {folder.name}, which is shown."
    if evaluation.step not in (None, step):
        return f"These figures are of step {evaluation.step}, the scene that is shown is of step {step}."
    return ""
