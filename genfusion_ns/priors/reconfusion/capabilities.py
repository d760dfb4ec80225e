"""What ``reconfusion`` can do with clips, which is nothing: it draws single views."""

from genfusion_ns.priors.base import Capabilities

CAPABILITIES = Capabilities(needs_cameras=True)
