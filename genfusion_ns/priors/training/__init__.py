"""Training of generators: one loop, and what is trained with it.

`loop` optimises whatever is an `objective.Objective`: `compact`, the network that comes with the package,
`dynamicrafter`, the architecture of GenFusion's published generator, `triposr`, and `reconfusion`.
"""

from typing import TYPE_CHECKING, Any

from genfusion_ns.priors.training.settings import NetworkConfig, OptimisationConfig

if TYPE_CHECKING:
    from genfusion_ns.priors.training.compact import build_network, save_network, train, training_loss

__all__ = ["NetworkConfig", "OptimisationConfig", "build_network", "save_network", "train", "training_loss"]


def __getattr__(name: str) -> Any:
    """What needs diffusers is imported when it is asked for, since command lines read the settings above."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from genfusion_ns.priors.training import compact

    return getattr(compact, name)
