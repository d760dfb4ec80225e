"""L0: cameras, clips, trajectories and depth; depends on torch and numpy only."""
