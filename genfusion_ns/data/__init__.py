"""L2: captures, splits, seed points, generated views and training clips."""
