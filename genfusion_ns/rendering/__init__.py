"""L1: rasterisation of 2D-Gaussian surfels behind one contract and three backends."""
