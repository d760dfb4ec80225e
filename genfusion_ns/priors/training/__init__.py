"""Training of generators: one loop, and what is trained with it.

`loop` optimises whatever is an `objective.Objective`. There are two: `compact`, the network that comes with the
package, and `dynamicrafter`, the architecture of GenFusion's published generator.
"""

from genfusion_ns.priors.training.compact import (
    NetworkConfig,
    OptimisationConfig,
    build_network,
    save_network,
    train,
    training_loss,
)

__all__ = ["NetworkConfig", "OptimisationConfig", "build_network", "save_network", "train", "training_loss"]
