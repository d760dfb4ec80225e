"""The dataparsers that this plugin adds to nerfstudio; targets of its entry points, as the methods are of theirs.

nerfstudio looks for dataparsers while its datamanagers are being imported, so this module knows neither these nor
our methods.
"""

from __future__ import annotations

from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from genfusion_ns.data.multiscale.parser import MultiscaleBlenderDataParserConfig

multiscale_blender = DataParserSpecification(
    config=MultiscaleBlenderDataParserConfig(),
    description="Images at 1, 1/2, 1/4 and 1/8 of their size, as gf-make-multiscale writes them.",
)
