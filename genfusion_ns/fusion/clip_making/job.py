"""The job of `gf-make-clips`: training pairs of one capture and seed.

The capture is reconstructed from all of its photos once, and without repair from weak parts of them; the weak scenes
are rendered at several stages of their fitting, along the photos and beside them (GenFusion section 4.1). Along the
photos the clean side is the photo with the depth of the full reconstruction, beside them it is that reconstruction.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig

from genfusion_ns.data.captures.capture import Capture, read_capture, whole_capture_config
from genfusion_ns.data.captures.formats import dataparser_of
from genfusion_ns.data.clips.pairs import Provenance
from genfusion_ns.data.clips.shards import RECORD, finished_shards, read_record, write_record
from genfusion_ns.fusion.cameras.clip_cameras import choose_references
from genfusion_ns.fusion.clip_making.lifted_clips import clip_psnr, lifted_clips, photos_with_depth
from genfusion_ns.fusion.clip_making.paths import AllPhotos, CleanPath, perturbed_path, photo_path
from genfusion_ns.fusion.clip_making.plain_runs import PlainRun, Presets
from genfusion_ns.fusion.clip_making.preview import Preview
from genfusion_ns.fusion.clip_making.recipe import ClipRecipe, Difficulty, lifted_ids, lifted_seed
from genfusion_ns.fusion.clip_making.writers import ClipWriter, MadeClip, PublishedClipWriter, ShardClipWriter
from genfusion_ns.fusion.photos import PosedPhotos
from genfusion_ns.fusion.pipeline import GenFusionPipeline
from genfusion_ns.geometry.cameras import viewmat_to_c2w
from genfusion_ns.geometry.clips import ClipPair
from genfusion_ns.seeds import numbered_generator, seeded_generator


@dataclass(frozen=True)
class ClipJob:
    """One capture with one seed."""

    capture: Path
    """Folder of the capture."""
    out: Path
    """Folder of the data set."""
    seed: int
    """Of view choice, windows, paths and reconstructions."""
    recipe: ClipRecipe

    @property
    def name(self) -> str:
        """Name of the job and of its folder in the data set; no dots, which would end a key."""
        return f"{self.capture.resolve().name.replace('.', '_')}_s{self.seed}"

    @property
    def folder(self) -> Path:
        """Where the finished job is."""
        return self.out / self.name

    @property
    def unfinished(self) -> Path:
        """Where the job works, and where it leaves its log when it fails."""
        return self.out / f".{self.name}.partial"

    @property
    def log(self) -> Path:
        """What the reconstructions print."""
        return self.unfinished / "log.txt"

    def is_finished(self) -> bool:
        """Whether the job was done before; its shards are then compared with their sums.

        Raises:
            ValueError: done with other settings, damaged, or something else has its name.
        """
        if not self.folder.exists():
            return False
        if not (self.folder / RECORD).is_file():
            raise ValueError(f"{self.folder} exists but is no finished job (no {RECORD}); move it away")
        found, wanted = read_record(self.folder)["recipe"].fields(), self.recipe.as_record()
        made = {name: value.value for name, value in found.items()}
        differing = [
            f"{name} is {made.get(name)}, asked for is {value}"
            for name, value in wanted.items()
            if made.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"{self.folder} was made with other settings ({'; '.join(differing)}); name another folder for the "
                f"data set, or delete {self.folder} to make it again"
            )
        finished_shards(self.folder, check_sums=True)
        return True

    def run(self, presets: Presets) -> int:
        """Make the clips; the job's folder appears when all of them are written. Returns the number of samples.

        What an earlier, interrupted attempt left is made again from the start: the same clips, byte for byte, on the
        same machine with as many threads.

        Raises:
            ValueError: a capture that cannot be used, or settings that it is too small for.
        """
        shutil.rmtree(self.unfinished, ignore_errors=True)
        self.unfinished.mkdir(parents=True)
        with (
            self.log.open("w", buffering=1, encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            print(f"{self.name}: process {os.getpid()} on {platform.node()}")
            samples = _Maker(self, presets).make()
        os.replace(self.unfinished, self.folder)
        return samples


class _Maker:
    """State of a running job."""

    def __init__(self, job: ClipJob, presets: Presets) -> None:
        self.job, self.recipe, self.presets = job, job.recipe, presets
        self.parser, self.capture = _registered(job.capture, self.recipe.downscale_factor)
        self.names = self.capture.names
        self.preview = Preview([])
        self.writer: ClipWriter = (
            ShardClipWriter(job.unfinished, self.recipe.shard_megabytes * 2**20)
            if self.recipe.layout == "shards"
            else PublishedClipWriter(job.unfinished)
        )

    def make(self) -> int:
        difficulties = self.recipe.difficulties(len(self.names), self.job.seed)
        # A split needs a test view; the reconstruction from all photos does without the first one.
        everything = Difficulty("dense", "all views", tuple(range(1, len(self.names))), None)
        self._lifted()
        paths, dense_psnr = [], 0.0
        if difficulties:
            dense = self._run(everything, self.recipe.dense_iterations).train()
            paths, dense_psnr = self._paths(dense)
            del dense
        for difficulty in difficulties:
            calls = {
                step: partial(self._snapshot, paths=paths, difficulty=difficulty, stage=stage)
                for step, stage in self.recipe.stage_of_step().items()
            }
            self._run(difficulty, self.recipe.iterations).train(calls)
        shards = self.writer.finish()
        self.preview.sheet().save(self.job.unfinished / "preview.png")
        write_record(
            self.job.unfinished,
            shards,
            capture=self.job.capture.resolve().name,
            seed=self.job.seed,
            recipe=self.recipe.as_record(),
            samples=self.writer.samples,
            photos=len(self.names),
            dense_psnr=round(dense_psnr, 3),
            paths=[path.name for path in paths],
        )
        return self.writer.samples

    def _run(self, photos: Difficulty, iterations: int) -> PlainRun:
        count, seed = len(self.names), self.job.seed
        return PlainRun(self.presets, self.job.capture, self.parser, count, photos, iterations, seed)

    def _paths(self, dense: GenFusionPipeline) -> tuple[list[CleanPath], float]:
        everything = AllPhotos.of(dense, self.recipe.resolution)
        reached = everything.photos.mean_psnr(dense.scene)
        paths = [photo_path(dense.scene, everything, self.recipe)]
        if reached >= self.recipe.min_dense_psnr:
            for number in range(self.recipe.perturbed_paths):
                generator = numbered_generator(self.job.seed, number)
                path = perturbed_path(dense.scene, everything, self.recipe, number, generator)
                paths += [path] if path.windows else []
        elif self.recipe.perturbed_paths:
            print(f"No perturbed paths: the reconstruction from all photos has {reached:.1f} dB")
        return paths, reached

    def _lifted(self) -> None:
        """Clips of scenes that are made of the depth maps; see `lifting`."""
        if not self.recipe.lifted:
            return
        photos = photos_with_depth(self.capture, self.recipe.resolution)
        capture = self.job.capture.resolve().name
        for repeat, ids in lifted_ids(self.recipe, len(photos), self.job.seed):
            generator = seeded_generator(lifted_seed(self.job.seed, repeat) * 101 + len(ids))
            made = list(lifted_clips(photos, self.names, ids, self.recipe, capture, self.job.seed, generator))
            key = f"{self.job.name}_l{len(ids)}_{repeat:03d}_capture"
            self.writer.add(key, made, len(photos))
            shown = made[len(made) // 2]
            self.preview.add(f"{key}, {shown.provenance.psnr} dB", shown.pair)

    def _snapshot(
        self, pipeline: GenFusionPipeline, paths: list[CleanPath], difficulty: Difficulty, stage: float
    ) -> None:
        size = paths[0].clean[0].size
        train = PosedPhotos.of(pipeline.datamanager, size, pipeline.scene.device)
        names = pipeline.datamanager.train_names
        for path in paths:
            made = []
            for window, clean, frames in zip(path.windows, path.clean, path.frames, strict=True):
                rendered = pipeline.scene.render_clip(clean.viewmats, clean.Ks, size, normals=True)
                shown = None
                if difficulty.masked_area is not None and frames:  # rounds of masked runs show the windows, too
                    ids = [names.index(name) if name in names else None for name in frames]
                    shown = train.shown_from(ids, clean.Ks, size)
                artifact = train.as_given(rendered, shown)
                poses = viewmat_to_c2w(clean.viewmats).cpu()
                chosen = choose_references(train.c2w.cpu(), poses, self.recipe.num_references)
                provenance = Provenance(
                    capture=self.job.capture.resolve().name,
                    split=difficulty.description,
                    seed=self.job.seed,
                    stage=stage,
                    path=path.name,
                    clean="photo" if frames else "render",
                    train_views=names,
                    frames=frames,
                    references=tuple(names[i] for i in chosen),
                    psnr=clip_psnr(artifact, clean),
                )
                made.append(MadeClip(window, ClipPair(artifact, clean, train.references(chosen)), provenance))
            key = f"{self.job.name}_{difficulty.key}_{round(100 * stage):03d}_{path.name}"
            self.writer.add(key, made, path.length)
            if stage == max(self.recipe.stages):
                shown = made[len(made) // 2]
                self.preview.add(f"{key}, {shown.provenance.psnr} dB", shown.pair)


def _registered(capture: Path, downscale_factor: int | None) -> tuple[DataParserConfig, Capture]:
    """How the capture is read, and its photos in the order of their ids."""
    config = dataparser_of(capture, downscale_factor)
    whole = whole_capture_config(config)
    parser = whole.setup()
    return config, read_capture(parser, parser.get_dataparser_outputs("train"))
