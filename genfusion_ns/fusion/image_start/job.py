"""Images made into objects and written, one after the other; what is wrong with one does not stop the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from genfusion_ns.errors import is_for_user, message_of
from genfusion_ns.files import replacing_files
from genfusion_ns.fusion.image_start.capture_files import Photo, write_capture
from genfusion_ns.fusion.image_start.orbit import Orbit, orbit_of
from genfusion_ns.fusion.image_start.photo_pose import LEAST_OVERLAP, place_photo
from genfusion_ns.fusion.image_start.settings import Image3dSettings
from genfusion_ns.priors.triposr.background import BackgroundRemover, rgba_of
from genfusion_ns.priors.triposr.loading import choose_network, load_network
from genfusion_ns.priors.triposr.mesh_files import write_mesh
from genfusion_ns.priors.triposr.objects import MadeObject, ObjectMaker, StageTimes
from genfusion_ns.priors.triposr.pictures import cut_out, over_grey, read_picture

RECORD = "image3d.json"


@dataclass(frozen=True)
class Outcome:
    """What became of one image."""

    image: Path
    """As it was given."""
    folder: Path
    """Of its object."""
    failure: str | None = None
    """What was wrong; nothing was then written."""


class Image3dJob:
    """A network, and what is to be made with it."""

    def __init__(self, settings: Image3dSettings) -> None:
        """Load the network.

        Raises:
            ValueError: settings that nothing could be made with, or files that are no such network.
            FileNotFoundError: there is no such network.
            ImportError: a background is to be removed, and rembg is not installed.
        """
        settings.check()
        device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.settings = settings = settings.on(gpu=device.type == "cuda")
        self.orbit: Orbit = orbit_of(settings.num_views or 0, settings.elevations, settings.view_size or 0)
        self.remover = BackgroundRemover() if settings.remove_background else None
        chosen = choose_network(settings.model)
        if chosen.note is not None:
            print(chosen.note, flush=True)
        self.network = chosen.model
        network = load_network(chosen.model)
        if settings.threshold is None:
            self.settings = settings = replace(settings, threshold=network.config["surface_density"])
        self.maker = ObjectMaker(network, device, settings.precision)

    def run(self, images: Sequence[Path], output: Path) -> list[Outcome]:
        """Make and write all of them, into folders 0, 1, ... of `output`; errors of one image are kept with it."""
        outcomes = []
        for index, image in enumerate(images):
            folder = output / str(index)
            print(f"[{index + 1}/{len(images)}] {image}", flush=True)
            try:
                times = self.make(image, folder)
            except Exception as error:
                if not is_for_user(error):
                    raise
                outcomes.append(Outcome(image, folder, message_of(error)))
                print(f"  failed: {message_of(error)}", flush=True)
            else:
                outcomes.append(Outcome(image, folder))
                print(f"  {folder}: {times.line()}", flush=True)
        return outcomes

    def make(self, image: Path, folder: Path) -> StageTimes:
        """Make the object of one image and write its folder, completely or not at all.

        Raises:
            PictureError: nothing can be made of the image.
            EmptySurfaceError: what was made of it has no surface at the threshold.
            WriteError: the disk is full or not writable.
        """
        settings, times = self.settings, StageTimes()
        with times.stage("input"):
            rgba, picture = self._input(image)
        made = self.maker.make(picture, skip=settings.skip_empty, chunk=settings.chunk_size, times=times)
        mesh = made.mesh(settings.mc_resolution or 0, settings.threshold or 0)
        shape = made.textured(mesh, settings.texture_size) if settings.bake_texture else mesh
        views = made.views(self.orbit.c2w, self.orbit.K, self.orbit.size)
        points = made.points(mesh, settings.num_points, settings.seed)
        photo = self._photo(made, rgba)
        with times.stage("files"), replacing_files(folder, "the object") as staging:
            Image.fromarray(picture).save(staging / "input.png")
            write_mesh(staging, shape, settings.format)
            write_capture(staging, self.orbit, views, points, photo)
            record = self._record(image, made, len(mesh.faces), mesh.volume())
            (staging / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return times

    def _input(self, image: Path) -> tuple[UInt8[np.ndarray, "S S 4"] | None, UInt8[np.ndarray, "H W 3"]]:
        """The object cut out, where it is, and the picture that the network gets."""
        read = read_picture(image)
        rgba = rgba_of(read, str(image), self.remover, self.settings.as_is)
        if rgba is None:
            return None, np.asarray(read.convert("RGB"))
        square = cut_out(rgba, self.settings.foreground_ratio, str(image))
        return square, over_grey(square)

    def _photo(self, made: MadeObject, rgba: UInt8[np.ndarray, "S S 4"] | None) -> Photo | None:
        if self.settings.photo_pose == "none":
            return None
        if rgba is None:
            raise ValueError("--photo-pose search needs images whose object is cut out; leave it or --as-is out")
        placed = place_photo(made, torch.from_numpy(rgba.astype(np.float32) / 255))
        if placed is None or placed.overlap < LEAST_OVERLAP:
            found = "no view shows anything" if placed is None else f"outlines share {placed.overlap:.0%}"
            print(f"  the image is not used as a photo: {found}, {LEAST_OVERLAP:.0%} are needed", flush=True)
            return None
        print(f"  the image is a photo from {placed.elevation:g} degrees (outlines share {placed.overlap:.0%})")
        return placed.photo

    def _record(self, image: Path, made: MadeObject, faces: int, volume: float) -> dict[str, Any]:
        return {
            "image": str(image),
            "network": self.network,
            "settings": {field.name: getattr(self.settings, field.name) for field in fields(Image3dSettings)},
            "seconds": {name: round(value, 3) for name, value in made.times.seconds.items()},
            "queries": made.radiance.queries,
            "occupied": None if made.occupancy is None else round(made.occupancy.share, 4),
            "triangles": faces,
            "volume": round(volume, 6),
        }


def report(outcomes: Sequence[Outcome]) -> None:
    """End with what failed, if anything did.

    Raises:
        ValueError: naming every image that failed, with its reason.
    """
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    if not failed:
        return
    if len(outcomes) == 1:
        raise ValueError(str(failed[0].failure))
    lines = "".join(f"\n  {outcome.image}: {outcome.failure}" for outcome in failed)
    raise ValueError(f"{len(failed)} of {len(outcomes)} images failed, the others are written:{lines}")
