"""The network of mip-NeRF: one for both passes (section 3.2 and the appendix of NeRF)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genfusion_ns.models.mipnerf.encoding import DIRECTION_DEGREES, POSITION_DEGREES


class MipNerfMLP(nn.Module):
    """Raw colour and density of encoded Gaussians; parameters are named as in the published checkpoints."""

    def __init__(
        self,
        width: int = 256,
        depth: int = 8,
        view_width: int = 128,
        degrees: int = POSITION_DEGREES[1],
        skip: int = 4,
    ) -> None:
        """
        Args:
            width: of the hidden layers.
            depth: how many of them.
            view_width: of the layer that sees the viewing direction.
            degrees: of the encoded positions.
            skip: the layer after this one, counted from 0, sees the encoded position again, and so after each multiple
                of it but for the last layer.
        """
        super().__init__()
        position = 6 * degrees
        direction = 3 + 6 * (DIRECTION_DEGREES[1] - DIRECTION_DEGREES[0])
        self._skips = {i for i in range(depth) if i > 0 and i % skip == 0 and i < depth - 1}
        widths = [position, *(width + (position if i in self._skips else 0) for i in range(depth - 1))]
        self.layers = nn.ModuleList(_hidden(size, width) for size in widths)
        self.density_layer = nn.Linear(width, 1)
        self.extra_layer = nn.Linear(width, width)
        self.view_layers = nn.ModuleList([_hidden(width + direction, view_width)])
        self.color_layer = nn.Linear(view_width, 3)
        for layer in (self.density_layer, self.extra_layer, self.color_layer):
            nn.init.xavier_uniform_(layer.weight)

    def forward(
        self, positions: Float[Tensor, "rays S features"], directions: Float[Tensor, "rays view_features"]
    ) -> tuple[Float[Tensor, "rays S 3"], Float[Tensor, "rays S 1"]]:
        """Colour and density before their activations.

        Args:
            positions: encoded Gaussians.
            directions: encoded unit viewing directions.
        """
        x = positions
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self._skips:
                x = torch.cat([x, positions], -1)
        density = self.density_layer(x)
        seen = directions[..., None, :].expand(*x.shape[:-1], -1).to(x.dtype)
        for layer in self.view_layers:
            seen_first = torch.cat([self.extra_layer(x), seen], -1)
            x = layer(seen_first)
        return self.color_layer(x), density


def _hidden(size: int, width: int) -> nn.Sequential:
    linear = nn.Linear(size, width)
    nn.init.xavier_uniform_(linear.weight)
    return nn.Sequential(linear, nn.ReLU())
