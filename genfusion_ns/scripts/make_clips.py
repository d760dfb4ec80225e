"""`gf-make-clips`: training pairs for the generator, from weak reconstructions of captures.

Each capture is reconstructed from a few of its views, without repair; the weak scene is rendered along the capture at
several stages of its fitting, and each render is paired with the photo taken there (GenFusion section 4.1). The depth
of the clean side is that of a reconstruction from all train views.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE

from genfusion_ns.data.clips import Provenance, write_pair
from genfusion_ns.fusion.observed import ObservedPhotos, commonest_size
from genfusion_ns.fusion.pipeline import GenFusionPipeline
from genfusion_ns.fusion.trainer import GenFusionTrainer
from genfusion_ns.fusion.view_samplers import ObservedViews, choose_references, clip_size
from genfusion_ns.geometry.cameras import Clip, c2w_to_viewmat
from genfusion_ns.geometry.clip_pairs import ClipPair
from genfusion_ns.geometry.trajectories import visiting_order
from genfusion_ns.geometry.windows import clip_windows

_CLIP_LENGTH = 16


@dataclass
class MakeClips:
    """Write clip pairs of one or more captures (nerfstudio format) into a folder."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of the data set; pairs of other captures in it stay."""
    captures: tuple[Path, ...]
    """Folders with a transforms.json each."""
    views: tuple[int, ...] = (3, 6, 9)
    """Numbers of train views of the weak reconstructions."""
    seed: int = 0
    """Seed of the reconstructions."""
    iterations: int = 1000
    """Steps of a weak reconstruction."""
    dense_iterations: int = 2000
    """Steps of the reconstruction from all train views, which gives the clean depth."""
    stages: tuple[float, ...] = (0.25, 1.0)
    """Shares of the weak run at which clips are rendered: rounds meet scenes that are not fitted to the end."""
    resolution: tuple[int, int] = (256, 144)
    """Width and height that clips have about as many pixels as."""
    downscale_factor: int | None = None
    """Use images_<factor>; by default the parser chooses."""
    num_references: int = 4
    """Photos stored with each clip, the train views nearest to it."""

    def run(self) -> None:
        """Make the pairs of all captures."""
        for capture in self.captures:
            if not (capture / "transforms.json").is_file():
                raise SystemExit(f"{capture} has no transforms.json; --captures takes folders in nerfstudio format")
        for capture in self.captures:
            self._capture(capture)

    def _capture(self, capture: Path) -> None:
        dense = self._reconstruct(capture, None, self.dense_iterations, {})
        photos, order = _all_photos(dense, self.resolution)
        clean_depth = _clean_clip(dense, photos, order)
        del dense
        for views in self.views:

            def snapshot(pipeline: GenFusionPipeline, stage: float, views: int = views) -> None:
                name = f"{capture.name}_v{views}_s{self.seed}_{round(100 * stage):03d}"
                provenance = Provenance(capture.name, f"{views} views, stage {stage}", self.seed)
                for number, pair in enumerate(self._pairs(pipeline, photos, order, clean_depth)):
                    write_pair(self.out, f"{name}_{number:02d}", pair, provenance)
                CONSOLE.print(f"{name}: clips written to {self.out}")

            steps = {max(1, round(self.iterations * stage)) - 1: stage for stage in self.stages}
            self._reconstruct(capture, views, self.iterations, {s: (snapshot, stage) for s, stage in steps.items()})

    def _reconstruct(
        self, capture: Path, views: int | None, iterations: int, snapshots: dict[int, Any]
    ) -> GenFusionPipeline:
        """Train without repair in a temporary run folder; call each snapshot after its step."""
        from genfusion_ns.methods import genfusion

        config: Any = copy.deepcopy(genfusion.config)
        config.data = config.pipeline.datamanager.data = capture
        config.pipeline.datamanager.num_views = views
        config.pipeline.datamanager.dataparser.downscale_factor = self.downscale_factor
        config.pipeline.repairer.model = "none"
        config.max_num_iterations, config.machine.seed = iterations, self.seed
        config.vis = ""  # no event file: its writer thread outlives the temporary folder
        config.steps_per_eval_image = 0
        torch.manual_seed(self.seed)
        with tempfile.TemporaryDirectory() as folder:
            config.output_dir, config.timestamp = Path(folder), "run"
            config.set_timestamp()
            writer.EVENT_WRITERS.clear()
            trainer: GenFusionTrainer = config.setup(local_rank=0, world_size=1)
            trainer.setup()
            pipeline: Any = trainer.pipeline

            def after(step: int) -> None:
                if step in snapshots:
                    act, stage = snapshots[step]
                    act(pipeline, stage)

            trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], after))
            trainer.train()
        return pipeline

    def _pairs(
        self, pipeline: GenFusionPipeline, photos: ObservedPhotos, order: list[int], clean: Clip
    ) -> list[ClipPair]:
        train = ObservedPhotos.of(pipeline.datamanager, photos.size, pipeline.scene.device)
        pairs = []
        for window in clip_windows(len(order), _CLIP_LENGTH):
            frames = window.frames(len(order))
            viewmats, Ks = clean.viewmats[frames], clean.Ks[frames]
            artifact = pipeline.scene.render_clip(viewmats, Ks, photos.size)
            poses = photos.c2w[[order[i] for i in frames]].cpu()
            chosen = choose_references(train.c2w.cpu(), poses, self.num_references)
            target = Clip(clean.rgb[frames], clean.depth[frames], clean.alpha[frames], viewmats, Ks)
            pairs.append(ClipPair(artifact, target, train.references(chosen)))
        return pairs


def _all_photos(pipeline: GenFusionPipeline, resolution: tuple[int, int]) -> tuple[ObservedPhotos, list[int]]:
    """Every registered view at clip size, and the order of a short walk along the cameras."""
    datamanager, device = pipeline.datamanager, pipeline.scene.device
    size = clip_size(commonest_size(datamanager.whole_train_cameras), resolution)
    parts = [ObservedPhotos.of(datamanager, size, device, split) for split in ("train", "test")]
    rgb, c2w, Ks = (torch.cat([getattr(part, name) for part in parts]) for name in ("rgb", "c2w", "Ks"))
    sizes = [size for part in parts for size in part.whole.sizes]
    whole = ObservedViews(c2w.cpu(), torch.cat([part.whole.Ks for part in parts]), sizes)
    merged = ObservedPhotos(rgb, None, c2w, Ks, whole)
    return merged, visiting_order(merged.c2w.cpu())


def _clean_clip(dense: GenFusionPipeline, photos: ObservedPhotos, order: list[int]) -> Clip:
    """The photos in walking order with the depth of the dense scene."""
    viewmats, Ks = c2w_to_viewmat(photos.c2w[order]), photos.Ks[order]
    rendered = dense.scene.render_clip(viewmats, Ks, photos.size)
    return Clip(photos.rgb[order], rendered.depth, (rendered.alpha > 0.9).float(), viewmats, Ks)


def entrypoint() -> None:
    """Entry point of `gf-make-clips`."""
    tyro.cli(MakeClips).run()
