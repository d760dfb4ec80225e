"""Videos written frame by frame, so that a long one need not fit in memory."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from genfusion_ns.geometry.images import to_bytes


class VideoWriter:
    """Context manager that writes an H.264 (yuv420p) mp4 with the ffmpeg that comes with imageio-ffmpeg.

    The file appears when the context ends without an error; otherwise nothing is left behind.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        frames_per_second: float,
        quality: int = 7,
        preset: Literal["medium", "veryfast"] = "medium",
    ) -> None:
        """
        Args:
            path: ends in .mp4.
            size: (width, height) of the frames; odd sides are extended by one repeated row or column, as yuv420p needs
                even ones.
            frames_per_second: playing speed.
            quality: 0..10, the scale of imageio-ffmpeg; 10 keeps everything but the chroma resolution.
            preset: of x264, how long it looks for a smaller file of this quality.
        """
        self.path = path
        self.size = size
        self.frames_per_second = frames_per_second
        self.quality = quality
        self.preset = preset
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.part.mp4")
        self._writer: Generator[None, Any, None] | None = None

    def __enter__(self) -> VideoWriter:
        import imageio_ffmpeg

        writer = imageio_ffmpeg.write_frames(
            str(self._temporary),
            size=(self.size[0] + self.size[0] % 2, self.size[1] + self.size[1] % 2),
            fps=self.frames_per_second,  # type: ignore[arg-type]  # annotated as int, but fractions pass through
            codec="libx264",
            pix_fmt_in="rgb24",
            pix_fmt_out="yuv420p",
            quality=self.quality,
            macro_block_size=1,
            ffmpeg_log_level="error",
            output_params=["-movflags", "+faststart", "-preset", self.preset],
        )
        writer.send(None)
        self._writer = writer
        return self

    def append(self, frames: Float[Tensor, "T H W 3"]) -> None:
        """Add frames, colours in 0..1.

        Raises:
            RuntimeError: outside the context, or ffmpeg failed; the message carries its output.
        """
        writer = self._writer
        if writer is None:
            raise RuntimeError(f"the writer of {self.path} takes frames only inside its with statement")
        even = to_bytes(frames)
        if self.size[0] % 2 or self.size[1] % 2:
            border = (0, self.size[0] % 2, 0, self.size[1] % 2)
            even = functional.pad(even.permute(0, 3, 1, 2).float(), border, mode="replicate").permute(0, 2, 3, 1).byte()
        try:
            for frame in even:
                writer.send(frame.contiguous().numpy().tobytes())
        except OSError as error:
            raise RuntimeError(f"ffmpeg could not encode {self.path}: {error}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
            if kind is None:
                if not self._temporary.is_file():
                    raise RuntimeError(f"ffmpeg wrote no video for {self.path}; see its output above")
                if not is_whole(self._temporary):  # imageio-ffmpeg does not ask how ffmpeg ended
                    raise RuntimeError(
                        f"ffmpeg did not end the video {self.path}: the disk is full, or see its output above"
                    )
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    """Whether a file is an mp4 from its first to its last box, with an index."""
    kinds, place, size = set(), 0, path.stat().st_size
    with path.open("rb") as file:
        while place < size:
            file.seek(place)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:  # the length proper follows
                length = int.from_bytes(head[8:], "big")
            if length < 8:
                return False
            kinds.add(head[4:8])
            place += length
    return place == size and {b"ftyp", b"moov", b"mdat"} <= kinds
