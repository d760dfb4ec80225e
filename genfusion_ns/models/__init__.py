"""L2: the surfel scene model, its losses and its densification."""
