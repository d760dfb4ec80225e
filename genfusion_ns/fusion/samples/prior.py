"""The prior that samples views: which one a run uses, and that it is one."""

from __future__ import annotations

import torch

from genfusion_ns.priors.base import ViewPrior
from genfusion_ns.priors.config import KINDS, FoundRepairer, RepairerConfig, build_repairer, check_repairer
from genfusion_ns.priors.options import FLAG


def check_prior(config: RepairerConfig, device: torch.device | str) -> FoundRepairer:
    """Check the prior of a run without building it; errors as of `check_repairer`.

    Raises:
        ValueError: it is of a kind that does not draw single views.
    """
    found = check_repairer(config, device)
    if not KINDS[found.kind].draws_views:
        raise ValueError(_wrong(config, found.kind))
    return found


def build_prior(config: RepairerConfig, device: torch.device | str) -> ViewPrior:
    """Build the prior of a run; errors as in `check_prior`."""
    found = check_prior(config, device)
    built = build_repairer(config, device)
    if not isinstance(built, ViewPrior):
        raise ValueError(_wrong(config, found.kind))
    return built


def _wrong(config: RepairerConfig, kind: str) -> str:
    able = [name for name, options in KINDS.items() if options.draws_views]
    return (
        f"{FLAG}.model {config.model} is a prior of the kind {kind}, which repairs clips and draws no single views; a "
        f"sample at every step needs one of the kind {' or '.join(able)}: give {FLAG}.model a folder that "
        "gf-train-generator wrote for it, see configs/generator/reconfusion_small.yaml"
    )
