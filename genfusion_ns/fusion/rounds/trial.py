"""A round on trial: it is withdrawn where the photos have suffered from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """The newest round and how well the scene reproduced the photos before it."""

    round: int
    photos_psnr: float
    """Mean PSNR in dB of the scene against the photos; see `PosedPhotos.mean_psnr`."""

    def complaint(self, photos_psnr: float, margin: float) -> str | None:
        """Why the round must be withdrawn, or None.

        Args:
            photos_psnr: as the scene reproduces the photos now, in dB.
            margin: by which that may be worse than before the round, in dB.
        """
        if photos_psnr >= self.photos_psnr - margin:
            return None
        return (
            f"the photos are reproduced at {photos_psnr:.2f} dB, before the round it was {self.photos_psnr:.2f} dB "
            "(--pipeline.fusion.withdraw-margin)"
        )
