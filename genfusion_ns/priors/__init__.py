"""L2: video repairers, the generative priors of the loop."""
