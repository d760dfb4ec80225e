"""genfusion_ns: surfel reconstruction and video generation in one loop, as a nerfstudio plugin."""

__version__ = "0.1.0"
