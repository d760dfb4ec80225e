"""A sample of an image-diffusion prior at every step as the supervision of a run (ReconFusion, CVPR 2024)."""
