"""ReconFusion's prior: what a new view should show, drawn by diffusion from its render and posed photos.

After Wu et al. 2024, "ReconFusion: 3D Reconstruction with Diffusion Priors"; neither code nor weights of it exist.
"""
