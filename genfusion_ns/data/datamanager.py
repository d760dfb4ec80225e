"""The datamanager: nerfstudio's dataparsers and image cache underneath, sparse splits and honest seed points on top."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from genfusion_ns.data.camera_conversion import camera_sizes
from genfusion_ns.data.captures.capture import (
    Capture,
    data_folder,
    located_capture,
    point_sources,
    read_capture,
    select_outputs,
    whole_capture_config,
)
from genfusion_ns.data.captures.generated import GeneratedViews, generated_views
from genfusion_ns.data.captures.image_sizes import match_image_sizes
from genfusion_ns.data.captures.location import absolute_if_there
from genfusion_ns.data.captures.mask_files import MaskError, check_masks, declared_masks
from genfusion_ns.data.doors import RayDoors, named_apart
from genfusion_ns.data.masking import (
    MaskedDataset,
    MaskingConfig,
    SeenParts,
    choose_seen_parts,
    crop_views,
    cropped_cameras,
)
from genfusion_ns.data.points.backdrop import directional_colours, find_backdrop
from genfusion_ns.data.points.scene_extent import SceneExtent
from genfusion_ns.data.points.seed_points import SeedPoints, make_seed_points
from genfusion_ns.data.points.surface_points import find_surface_points
from genfusion_ns.data.view_selection import NameIndex, ViewSplit, select_views
from genfusion_ns.messages import say
from genfusion_ns.ranges import LEAST_0, require_ranges
from genfusion_ns.seeds import seeded_generator
from genfusion_ns.stored_config import StoredConfig

_MIN_FPS_VIEWS = 8
"""nerfstudio samples farthest points in buckets of a three-level tree, which has 8 leaves."""


@dataclass
class GenFusionDataManagerConfig(StoredConfig, FullImageDatamanagerConfig):
    """Configuration of `GenFusionDataManager`."""

    _target: type = field(default_factory=lambda: GenFusionDataManager)
    num_views: int | None = None
    """Number of train views. Uses train_test_split_{num_views}.json beside the data when it exists, else views spread
    evenly over those that are not held out. Unset or 0: every view that is not held out."""
    split_file: Path | None = None
    """JSON file with train_ids and test_ids: positions among the registered images sorted by name, or image names.
    Relative to the working directory or to the data. Wins over num-views."""
    test_every: int = 8
    """Hold out every n-th view for evaluation when neither a split file nor the capture says which views to hold out;
    0: train on every photo, and have evaluation tell how well these are reproduced.
    Stands in for the dataparser's own eval-interval and train-split-fraction; its eval-mode filename is respected."""
    seed_points: Literal["visible", "strict", "random"] = "visible"
    """Sparse points to start from: those seen by at least one train view; strict: only those that two or more train
    views see; random: none, points drawn in view of the train cameras."""
    num_random_points: int = 10_000
    """How many random points to draw, for seed-points random or when there are too few others."""
    min_seed_points: int = 100
    """With fewer sparse points than this, random points are added."""
    random_points_seed: int = 0
    """Seed of the random points."""
    surface_points: bool = True
    """Start from points on the surfaces between sparse points as well: where a photo sees three of these near each
    other and about as far away."""
    backdrop_points: bool = True
    """Start from points on a far sphere as well: where much of the train photos shows one colour and no seed point (an
    object before a white wall, a plain sky), which is then also behind empty renders, else in those parts of photos
    that are far from every seed point."""
    train_every: int | None = None
    """Train on every n-th view (0, n, 2n, ... in name order) and hold out all others, as the masked protocol does.
    Gives way to split-file and num-views."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    """What may be seen of each train photo."""
    cache_images_type: Literal["float32", "uint8"] = "uint8"
    """How photos are held in memory: uint8 takes a quarter of it and gives the same colours, rounded to 8 bits where
    photos are undistorted; float32 as they come out."""

    def make_paths_absolute(self) -> None:
        """Name files and folders so that they are found from any working directory, in place."""
        if self.data is None:
            self.dataparser.data = absolute_if_there(self.dataparser.data) or self.dataparser.data
        self.data = absolute_if_there(self.data)
        self.split_file = absolute_if_there(self.split_file)
        self.masking.file = absolute_if_there(self.masking.file)


class GenFusionDataManager(FullImageDatamanager, RayDoors):
    """Full images and cameras of a few train views; all other registered views are held out or unused.

    Every nerfstudio dataparser works underneath. It is asked for all registered views, whatever its own split options
    say, and its poses are normalised over all of them: the same capture has the same frame for every split, in
    training, evaluation and rendering. That is a mild leak of the held-out cameras' positions; their images and the
    points that only they see never reach training. The evaluation views are the test views in every test mode.
    """

    config: GenFusionDataManagerConfig

    def __init__(
        self,
        config: GenFusionDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ) -> None:
        parser: DataParserConfig = config.dataparser
        if config.data is not None:
            parser = replace(parser, data=Path(config.data))
        parser = located_capture(parser)
        self._named_parser = parser
        # A changed copy, so that the saved config keeps what the user asked for and can be set up again.
        # ns-render sets the pipeline up without ever opening an image.
        self._opens_images = test_mode != "inference"
        parser = whole_capture_config(parser)
        config = replace(config, dataparser=parser, data=parser.data)
        super().__init__(config, device, test_mode, world_size, local_rank, **kwargs)
        if test_mode == "val":  # only training starts from points
            if config.surface_points:
                self._add_surface_points()
            if config.backdrop_points:
                self._add_backdrop()

    @property
    def train_view_ids(self) -> tuple[int, ...]:
        """Ids of the train views: positions among the registered views sorted by name."""
        return self.split.train_ids

    @property
    def test_view_ids(self) -> tuple[int, ...]:
        """Ids of the held-out views."""
        return self.split.test_ids

    @cached_property
    def transparent(self) -> bool:
        """Whether all train photos have an alpha channel."""
        return all(batch["image"].shape[-1] == 4 for batch in self.cached_train)

    @property
    def train_names(self) -> tuple[str, ...]:
        """Image names of the train views, in the order of the train dataset."""
        return tuple(self.capture.names[i] for i in self.split.train_ids)

    @property
    def generated_train_views(self) -> frozenset[int]:
        """Positions in the train dataset of the views that no camera took, as the capture says."""
        known = NameIndex(self.train_names)
        return frozenset(view for name in self.generated.names for view in known.find(name))

    @property
    def test_names(self) -> tuple[str, ...]:
        """Image names of the held-out views, in the order of the eval dataset."""
        return tuple(self.capture.names[i] for i in self.split.test_ids)

    def create_train_dataset(self) -> InputDataset:
        """Read the capture, split it and seed it; overrides what the parser calls its train split."""
        require_ranges(self.config, {"min_seed_points": LEAST_0}, "--pipeline.datamanager.")
        self.capture: Capture = read_capture(
            self.dataparser, self.train_dataparser_outputs, check_images=self._opens_images
        )
        self.split: ViewSplit = select_views(
            self.capture.names,
            data_folder(self.dataparser.config),
            self.config.num_views,
            split_file=self.config.split_file,
            test_every=self.config.test_every,
            declared=self.capture.declared,
            train_every=self.config.train_every,
        )
        self.parts: SeenParts | None = self._seen_parts() if self._opens_images else None
        self.generated: GeneratedViews = generated_views(self._named_parser)
        self.seeds: SeedPoints = self._make_seeds()
        self.train_dataparser_outputs = self._select(self.split.train_ids)
        self.extent = SceneExtent.of(
            self.parts.cameras if self.parts else self.train_dataparser_outputs.cameras,
            self.seeds.xyz,
            self.parts.masks if self.parts else None,
        )
        self.train_dataparser_outputs.metadata.update(
            points3D_xyz=self.seeds.xyz,
            points3D_rgb=self.seeds.rgb.float(),
            seed_points_kind=self.seeds.kind,
            scene_length=self.extent.length,
            near_plane=self.extent.near_plane,
        )
        if self.seeds.normals is not None:
            self.train_dataparser_outputs.metadata["points3D_normals"] = self.seeds.normals
        say(
            f"Views: {len(self.split.train_ids)} train, {len(self.split.test_ids)} test of {len(self.capture.names)} "
            f"({self.split.source}). Seed points: {len(self.seeds.xyz)}, {self.seeds.kind} ({self.seeds.source}). "
            f"They lie about {self.extent.length:.3g} scene units deep; near plane {self.extent.near_plane:.3g}."
        )
        dataset = MaskedDataset(self.train_dataparser_outputs, self.config.camera_res_scale_factor)
        if self.parts is not None and self.parts.mask_files is not None:
            dataset.mask_files = self.parts.mask_files
        dataset.alpha_is_mask = self.config.masking.source == "alpha"
        if self._opens_images:
            dataset.undistort()
        return dataset

    def create_eval_dataset(self) -> InputDataset:
        """The held-out views, whatever the parser calls its val or test split; whole photos in any case."""
        dataset = MaskedDataset(self._select(self.split.test_ids), self.config.camera_res_scale_factor)
        if self.config.masking.source == "alpha":
            dataset.mask_files, dataset.alpha_is_mask = None, True
        if self._opens_images:
            dataset.undistort()
        return dataset

    @property
    def whole_train_cameras(self) -> Cameras:
        """Cameras of the whole, undistorted train photos, of which a crop window may show a part. [V]"""
        _ = self.cached_train  # reading the photos is what undistorts and crops the cameras
        return self._whole_cameras

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """The next train view and its photo, see the base class; nothing of it makes the step wait for the GPU.

        Returns:
            A batch of one camera, whose metadata hold ``cam_idx`` and ``size``, (width, height) in pixels; its photo.
        """
        view = self.train_unseen_cameras.pop(0)
        if not self.train_unseen_cameras:
            self.train_unseen_cameras = self.sample_train_cameras()
        photo = {
            name: value.to(self.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in self.cached_train[view].items()
        }
        return self._cameras_of_views[view], photo

    @cached_property
    def _cameras_of_views(self) -> list[Cameras]:
        """The camera of each train view on the device, in a batch of one."""
        _ = self.cached_train  # reading the photos is what undistorts and crops the cameras
        sizes = camera_sizes(self.train_dataset.cameras)
        everything = self.train_dataset.cameras.to(self.device)
        cameras = [everything[view : view + 1] for view in range(len(sizes))]
        for view, (camera, size) in enumerate(zip(cameras, sizes, strict=True)):
            camera.metadata = {**(camera.metadata or {}), "cam_idx": view, "size": size}
        return cameras

    def sample_train_cameras(self) -> list[int]:
        """The train views of the next epoch, in random or farthest-point order (positions in the train dataset)."""
        count = len(self.train_dataset)
        if self.config.train_cameras_sampling_strategy == "fps" and count < _MIN_FPS_VIEWS:
            raise ValueError(
                f"--train-cameras-sampling-strategy fps needs {_MIN_FPS_VIEWS} or more train views, the split has "
                f"{count}; use random."
            )
        return super().sample_train_cameras()

    def describe(self) -> dict[str, Any]:
        """What evaluation results should say about the data: views, their source, and the seed points. JSON-able."""
        return {
            "num_registered_views": len(self.capture.names),
            "train_views": list(self.train_names),
            "test_views": list(self.test_names),
            "split": self.split.source,
            "held_out": self.split.holds_out,
            "seed_points": self.seeds.kind,
            "num_seed_points": len(self.seeds.xyz),
            "seed_points_source": self.seeds.source,
        }

    def sampler_state(self) -> dict[str, Any]:
        """Where the order of the train views stands; JSON-able, for `load_sampler_state`."""
        state: dict[str, Any] = {
            "strategy": self.config.train_cameras_sampling_strategy,
            "unseen": [int(i) for i in self.train_unseen_cameras],
        }
        if hasattr(self, "random_generator"):
            version, internal, gauss = self.random_generator.getstate()
            state["random"] = [version, list(internal), gauss]
        if hasattr(self, "train_unsampled_epoch_count"):
            state["epochs_unseen"] = [float(count) for count in self.train_unsampled_epoch_count]
            # nerfstudio starts each farthest-point epoch at a view drawn from numpy's global generator.
            name, keys, *rest = np.random.get_state()  # noqa: NPY002
            state["numpy"] = [name, [int(key) for key in keys], *rest]
        return state

    def load_sampler_state(self, state: dict[str, Any]) -> None:
        """Continue the order of the train views where `sampler_state` left it.

        Raises:
            ValueError: the state belongs to another strategy or another number of train views.
        """
        strategy, count = self.config.train_cameras_sampling_strategy, len(self.train_dataset)
        if state["strategy"] != strategy:
            raise ValueError(
                f"The saved view order was drawn with --train-cameras-sampling-strategy {state['strategy']}, this run "
                f"has {strategy}; resume with the same."
            )
        if not state["unseen"] or not all(0 <= i < count for i in state["unseen"]):
            raise ValueError(
                f"The saved view order {state['unseen'][:8]} does not fit {count} train views (0..{count - 1}); "
                "resume with the same split."
            )
        self.train_unseen_cameras = list(state["unseen"])
        if "random" in state:
            version, internal, gauss = state["random"]
            self.random_generator.setstate((version, tuple(internal), gauss))
        if "epochs_unseen" in state:
            self.train_unsampled_epoch_count[:] = state["epochs_unseen"]
            np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002

    def _load_images(
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> list[dict[str, torch.Tensor]]:
        dataset = self.train_dataset if split == "train" else self.eval_dataset
        if isinstance(dataset, MaskedDataset) and dataset.lenses is None:
            dataset.undistort()
        # "cpu" pins memory, which needs a driver; without one "gpu" stores on self.device, the CPU.
        where = cache_images_device if torch.cuda.is_available() else "gpu"
        views = super()._load_images(split, where)
        if split == "train":
            self._whole_cameras: Cameras = deepcopy(self.train_dataset.cameras)
            if self.parts is not None and self.parts.windows is not None:
                crop_views(views, self.parts.windows)
                self.train_dataset.cameras = cropped_cameras(self.train_dataset.cameras, self.parts.windows)
                self.train_cameras = self.train_dataset.cameras.to(self.train_cameras.device)
        return views

    def protocol(self) -> dict[str, Any]:
        """What this run may see, by view name; JSON-able. Split and windows can be read back from it."""
        masking = self.config.masking
        windows = self.parts.windows if self.parts else None
        return {
            "train_ids": list(self.train_names),
            "test_ids": list(self.test_names),
            "split": self.split.source,
            "train_every": self.config.train_every,
            "masking": {**asdict(masking), "file": None if masking.file is None else str(masking.file)},
            "windows": None if windows is None else dict(zip(self.train_names, map(astuple, windows), strict=True)),
            "seed_points": self.seeds.kind,
            "num_seed_points": len(self.seeds.xyz),
            "num_backdrop_points": self.train_dataset.metadata.get("num_backdrop_points", 0),
        }

    def _seen_parts(self) -> SeenParts | None:
        """What may be seen of the train views; masks that the capture declares are checked, whoever uses them."""
        declared = declared_masks(self.capture.outputs.mask_filenames)
        self.capture = replace(self.capture, outputs=replace(self.capture.outputs, mask_filenames=declared))
        everything = MaskedDataset(self.capture.outputs, self.config.camera_res_scale_factor)
        folder, source = data_folder(self.dataparser.config), self.config.masking.source
        if source != "none" or declared is not None:
            match_image_sizes(everything)
        parts = choose_seen_parts(self.config.masking, self.capture, folder, self.split.train_ids, everything)
        if everything.hidden_colour is not None and declared is None and (parts is None or parts.mask_files is None):
            raise MaskError(
                f"--mask-color is {everything.hidden_colour}, but the capture has no masks whose hidden pixels could "
                "take it; declare some (mask_path in transforms.json), or leave the flag out."
            )
        if declared is not None and source != "alpha":
            sizes = camera_sizes(everything.cameras)
            unread = self.split.test_ids if source == "masks" else (*self.split.train_ids, *self.split.test_ids)
            check_masks([declared[i] for i in unread], [sizes[i] for i in unread])
        return parts

    def _select(self, ids: tuple[int, ...]) -> DataparserOutputs:
        chosen = select_outputs(self.capture.outputs, ids)
        return replace(chosen, image_filenames=named_apart(chosen.image_filenames))

    def _add_surface_points(self) -> None:
        if self.generated.points is not None:  # they cover the surface as they are
            return
        photos = self.cached_train  # reading the photos is what undistorts and crops the cameras
        found = find_surface_points(self.train_dataset.cameras, photos, *self.seeds.sparse)
        self._append_points(found.xyz, found.rgb)
        self.train_dataset.metadata["surface_points"] = found.normals, found.radius
        say(f"Points on surfaces between them: {len(found)}.")

    def _append_points(self, xyz: Tensor, rgb: Tensor) -> None:
        """Behind those that the scene starts from by now."""
        metadata = self.train_dataparser_outputs.metadata
        metadata.update(
            points3D_xyz=torch.cat([metadata["points3D_xyz"], xyz]),
            points3D_rgb=torch.cat([metadata["points3D_rgb"], rgb.float()]),
        )

    def _add_backdrop(self) -> None:
        if self.generated.background is not None:  # known, and nothing is there
            self.train_dataset.metadata["backdrop_color"] = torch.tensor(self.generated.background)
            return
        photos = self.cached_train
        found = find_backdrop(self.train_dataset.cameras, photos, self.seeds.xyz)
        self._append_points(found.xyz, found.rgb)
        # The dataset's metadata are a copy, which the model gets.
        self.train_dataset.metadata.update(num_backdrop_points=len(found.xyz), backdrop_color=found.plain)
        if found.plain is None and not self.transparent:
            seen = directional_colours(self.train_dataset.cameras, photos)
            self.train_dataset.metadata["directional_colours"] = seen
        if found.plain is not None:
            colour = (255 * found.plain).round().int().tolist()
            say(f"Plain backdrop of about the colour {colour}: {len(found.xyz)} points behind everything.")
        elif len(found.xyz):
            say(f"Backdrop where no point is near: {len(found.xyz)} points behind everything.")

    def _make_seeds(self) -> SeedPoints:
        return make_seed_points(
            self.config.seed_points,
            point_sources(self._named_parser),
            self.capture.names,
            self.capture.outputs.cameras,
            self.split.train_ids,
            num_random=self.config.num_random_points,
            min_points=self.config.min_seed_points,
            generator=seeded_generator(self.config.random_points_seed),
            parts=self.parts,
            on_surface=self.generated.points is not None,
        )
