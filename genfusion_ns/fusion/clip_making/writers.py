"""Where a job of `gf-make-clips` puts the clips of a path: into shards, or into the published layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from genfusion_ns.data.clips.pairs import Provenance, pack
from genfusion_ns.data.clips.published import FrameSequencePair, write_published
from genfusion_ns.data.clips.shards import ShardRecord, ShardWriter
from genfusion_ns.files import write_atomically
from genfusion_ns.geometry.clips import SOLID_ALPHA, Clip, ClipPair, select_pair_frames
from genfusion_ns.geometry.depth import encode_disparity
from genfusion_ns.geometry.windows import Window


@dataclass(frozen=True)
class MadeClip:
    """One window of a path, ready to be written."""

    window: Window
    pair: ClipPair
    provenance: Provenance


class ClipWriter(Protocol):
    """Takes the clips of one job, path by path."""

    samples: int
    """Number of samples written."""

    def add(self, key: str, clips: Sequence[MadeClip], num_frames: int) -> None:
        """Write the windows of one path of `num_frames` frames, in path order, under names that begin with `key`."""
        ...

    def finish(self) -> list[ShardRecord]:
        """Close all files; what they are."""
        ...


class ShardClipWriter:
    """Every window is a sample; see `clip_shards`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.samples = 0
        self._writer = ShardWriter(folder, max_bytes)

    def add(self, key: str, clips: Sequence[MadeClip], num_frames: int) -> None:
        """See `ClipWriter.add`."""
        for number, made in enumerate(clips):
            name = f"{key}_{number:02d}"
            self._writer.add(name, pack(name, made.pair, made.provenance))
            self.samples += 1

    def finish(self) -> list[ShardRecord]:
        """See `ClipWriter.finish`."""
        return self._writer.finish()


class PublishedClipWriter:
    """Windows that go on from each other become one part, without their overlap; see `published_clips`.

    Beside each part a JSON file says where it comes from, which the layout itself does not.
    """

    def __init__(self, folder: Path) -> None:
        self.samples = 0
        self._folder = folder

    def add(self, key: str, clips: Sequence[MadeClip], num_frames: int) -> None:
        """See `ClipWriter.add`."""
        runs: list[list[MadeClip]] = []
        end = None
        for made in clips:
            fresh = made.window.new_frames(num_frames)
            if fresh.start == end:
                runs[-1].append(made)
            else:
                runs.append([made])
            end = fresh.stop
        for run in runs:
            self._write(key, run, num_frames)

    def finish(self) -> list[ShardRecord]:
        """See `ClipWriter.finish`."""
        return []

    def _write(self, key: str, run: list[MadeClip], num_frames: int) -> None:
        parts = [_without_cameras(made, num_frames) for made in run]
        names = ("artifact_rgb", "artifact_disparity", "clean_rgb", "clean_disparity")
        rgb_a, depth_a, rgb_c, depth_c = (torch.cat([getattr(part, name) for part in parts]) for name in names)
        write_published(self._folder, self.samples, FrameSequencePair(rgb_a, _coded(depth_a), rgb_c, _coded(depth_c)))
        about = {"key": key, **asdict(run[0].provenance)}
        for name in ("frames", "references", "psnr"):  # of a single window
            about.pop(name)
        path = self._folder / f"about_part_{self.samples:04d}.json"
        write_atomically(path, (json.dumps(about, indent=2) + "\n").encode())
        self.samples += 1


def _without_cameras(made: MadeClip, num_frames: int) -> FrameSequencePair:
    """Frames that no window before shows; depth, 0 where not covered, stands for disparity until its range is known."""
    first = made.window.new_from
    pair = select_pair_frames(made.pair, slice(first, first + len(made.window.new_frames(num_frames))))
    return FrameSequencePair(pair.artifact.rgb, _covered(pair.artifact), pair.clean.rgb, _covered(pair.clean))


def _covered(clip: Clip) -> Tensor:
    return torch.where(clip.alpha > SOLID_ALPHA, clip.depth, 0.0)


def _coded(depth: Tensor) -> Tensor:
    return encode_disparity(depth).disparity
