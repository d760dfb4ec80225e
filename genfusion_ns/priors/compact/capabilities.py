"""What ``compact`` can do, for those who build one and for those who ask before."""

from genfusion_ns.priors.base import Capabilities

CAPABILITIES = Capabilities(repairs=True, fills_holes=True, makes_confidence=True, needs_cameras=True, detail=4)
