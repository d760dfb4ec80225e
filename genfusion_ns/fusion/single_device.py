"""What all pipelines of this package do before and after nerfstudio builds them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from genfusion_ns.data.media.ffmpeg import ensure_ffmpeg
from genfusion_ns.errors import show_errors_plainly
from genfusion_ns.fusion.finite_settings import require_finite
from genfusion_ns.fusion.multiscale.evaluation import ScaledEvaluation


class SingleDevicePipeline(ScaledEvaluation):
    """A pipeline on one device, whose settings are refused before photos are read."""

    method: ClassVar[str]
    """Its name in messages."""
    checked: ClassVar[tuple[str, ...]]
    """Parts of its config whose numbers must be finite."""

    def __init__(
        self,
        config: Any,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        show_errors_plainly()
        if world_size > 1:
            raise ValueError(
                f"{self.method} trains on one device, --machine.num-devices is {world_size}; "
                "set it to 1 and start one run per device instead"
            )
        if test_mode == "val":  # training: what it could not use is refused before photos are read
            for part in self.checked:
                require_finite(getattr(config, part), f"--pipeline.{part.replace('_', '-')}")
            self.check_settings(config, device)
        super().__init__(config, device, test_mode, world_size, local_rank, grad_scaler)
        if test_mode != "val":  # ns-render loads its pipeline as test or inference; training needs no ffmpeg on PATH
            ensure_ffmpeg()

    def check_settings(self, config: Any, device: str) -> None:
        """Refuse further settings that could not be used for training; called before anything is built."""
