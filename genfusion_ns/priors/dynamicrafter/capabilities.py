"""What ``dynamicrafter`` can do, for those who build one and for those who ask before."""

from genfusion_ns.priors.base import Capabilities

CAPABILITIES = Capabilities(repairs=True, fills_holes=True, makes_depth=True, makes_confidence=True, one_size=True)
