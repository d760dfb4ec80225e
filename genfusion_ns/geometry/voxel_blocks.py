"""Fusion of depth maps into a signed distance field that exists near surfaces only: sparse blocks of voxels.

The field is the truncated signed distance of Curless and Levoy (1996), kept in blocks of 8^3 voxels that are made where
a depth map sees a surface (Niessner et al. 2013). Depth maps come one by one and are forgotten, so memory grows with
the area of the surface over the squared voxel and not with the number of views. Voxel (i, j, k) lies at
(i, j, k) * voxel in the world. Pure torch, on any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SIDE = 8
"""Voxels along the side of a block."""
BYTES_PER_BLOCK = SIDE**3 * (4 + 4 + 6)
"""Distance and weight in single, colour in half precision."""
_HALF = 1 << 20
"""Blocks are counted from -2^20 to 2^20 along each axis."""
_AT_ONCE = 2048
"""Blocks that are looked up in a depth map at once."""
_RAYS = 1 << 18
"""Pixels whose blocks are made at once."""
_NEAR = 1e-6
"""Least depth of a voxel that a camera sees, in truncations."""


class VolumeFullError(ValueError):
    """More blocks are needed than are allowed."""

    def __init__(self, blocks: int) -> None:
        super().__init__(f"the volume needs more than {blocks} blocks")
        self.blocks = blocks
        """As many as would have been needed so far."""


@dataclass(frozen=True)
class DepthView:
    """What one camera sees of surfaces."""

    depth: Float[Tensor, "H W"]
    """z depth, scene units; 0 where nothing is known, infinite where it is known that nothing is."""
    rgb: Float[Tensor, "H W 3"]
    """Colours, 0..1."""
    weight: Float[Tensor, "H W"]
    """Trust in the depth, above 0."""
    viewmat: Float[Tensor, "4 4"]
    """World-to-camera, OpenCV axes."""
    K: Float[Tensor, "3 3"]
    """Intrinsics in pixels."""


class VoxelBlocks:
    """A truncated signed distance field with colours, positive before surfaces and negative behind them."""

    def __init__(
        self, voxel: float, truncation: float, device: torch.device | str = "cpu", most_blocks: int | None = None
    ) -> None:
        """An empty field.

        Args:
            voxel: distance of two samples, scene units.
            truncation: distance from a surface up to which the field follows it, scene units; two voxels or more.
            device: of the field and of all views.
            most_blocks: that it may have; None: no limit.

        Raises:
            ValueError: lengths that no field has.
        """
        if not 0 < voxel < math.inf or not 2 * voxel <= truncation < math.inf:
            raise ValueError(f"voxel {voxel}, truncation {truncation}: need a voxel above 0 and a truncation of two")
        self.voxel, self.truncation, self.most_blocks = voxel, truncation, most_blocks
        self.device = torch.device(device)
        self._keys = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._slots = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._distance = torch.zeros(0, SIDE**3, device=self.device)
        self._weight = torch.zeros(0, SIDE**3, device=self.device)
        self._colour = torch.zeros(0, SIDE**3, 3, dtype=torch.float16, device=self.device)
        self._within = _block_offsets(self.device)

    def __len__(self) -> int:
        return len(self._keys)

    def coordinates(self) -> Int[Tensor, "B 3"]:
        """Of all blocks, in blocks; block (1, 0, 0) begins at voxel (8, 0, 0)."""
        return unpacked(self._keys)

    def integrate(self, view: DepthView, allowed: Bool[Tensor, "H W"] | None = None) -> None:
        """Take in one depth map.

        Args:
            view: its colours and depths.
            allowed: pixels whose surfaces may make new blocks; all with a depth by default.

        Raises:
            VolumeFullError: it needs more blocks than there may be; the field is as before.
        """
        known = (view.depth > 0) & torch.isfinite(view.depth) & (view.weight > 0)
        self._make_blocks(view, known if allowed is None else known & allowed)
        for blocks in self._seen_blocks(view).split(_AT_ONCE):
            self._update(blocks, view)

    def _make_blocks(self, view: DepthView, surface: Tensor) -> None:
        """Blocks within the truncation of the surface, along the rays of its pixels."""
        rows, columns = surface.nonzero(as_tuple=True)
        pixels = torch.stack([columns + 0.5, rows + 0.5, torch.ones_like(rows) + 0.0], -1).to(view.K)
        rotation, translation = view.viewmat[:3, :3], view.viewmat[:3, 3]
        steps = 1 + math.ceil(2 * self.truncation / (0.5 * SIDE * self.voxel))
        offsets = torch.linspace(-self.truncation, self.truncation, steps).tolist()
        found = [self._keys]
        for part in torch.arange(len(rows), device=self.device).split(_RAYS):
            rays = pixels[part] @ torch.linalg.inv(view.K).T
            depth = view.depth[rows[part], columns[part]][:, None]
            # A step along the ray has this length for each unit of depth.
            along = rays.norm(dim=-1, keepdim=True)
            for offset in offsets:
                points = ((depth + offset / along) * rays - translation) @ rotation
                found.append(packed(torch.floor(points / (SIDE * self.voxel)).long()).unique())
        keys = torch.cat(found).unique()
        if self.most_blocks is not None and len(keys) > self.most_blocks:
            raise VolumeFullError(len(keys))
        if len(keys) > len(self._keys):
            self._grow(keys)

    def _grow(self, keys: Tensor) -> None:
        """Room for more blocks; those that there are keep their slots."""
        old, new = len(self._keys), len(keys)
        room = len(self._distance)
        if new > room:
            more = max(new, min(2 * room, self.most_blocks or 2 * room)) - room
            self._distance = torch.cat([self._distance, self._distance.new_zeros(more, SIDE**3)])
            self._weight = torch.cat([self._weight, self._weight.new_zeros(more, SIDE**3)])
            self._colour = torch.cat([self._colour, self._colour.new_zeros(more, SIDE**3, 3)])
        slots = torch.full_like(keys, -1)
        slots[torch.searchsorted(keys, self._keys)] = self._slots
        slots[slots < 0] = torch.arange(old, new, device=self.device)
        self._keys, self._slots = keys, slots

    def _seen_blocks(self, view: DepthView) -> Int[Tensor, " S"]:
        """Positions (in `_keys`) of blocks that the image may show, not wholly behind what it shows."""
        height, width = view.depth.shape
        half = 0.5 * (SIDE - 1) * self.voxel
        centres = self.coordinates().to(view.depth) * (SIDE * self.voxel) + half
        camera = centres @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
        radius = math.sqrt(3) * half
        z = camera[:, 2]
        ahead = z + radius > 0
        image = (camera @ view.K.T)[:, :2] / z.clamp_min(radius)[:, None]
        reach = radius * torch.stack([view.K[0, 0], view.K[1, 1]]) / z.clamp_min(radius)[:, None] * 1.5
        size = image.new_tensor([width, height])
        inside = ((image + reach >= 0) & (image - reach <= size)).all(-1)
        farthest = view.depth.max()
        return (ahead & inside & (z - radius - self.truncation <= farthest)).nonzero()[:, 0]

    def _update(self, blocks: Tensor, view: DepthView) -> None:
        height, width = view.depth.shape
        places = (self.coordinates_of(blocks)[:, None] * SIDE + self._within).to(view.depth) * self.voxel
        camera = places.view(-1, 3) @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
        z = camera[:, 2]
        x, y = (camera @ view.K.T)[:, :2].div(z.clamp_min(_NEAR * self.truncation)[:, None]).unbind(-1)
        inside = (z > _NEAR * self.truncation) & (x >= 0) & (y >= 0) & (x < width) & (y < height)
        seen = inside.nonzero()[:, 0]
        x, y, z = x[seen], y[seen], z[seen]
        nearest = y.long() * width + x.long()
        depth = _depth_at(view.depth, x, y, nearest, self.truncation)
        ahead = depth - z
        trust = view.weight.flatten()[nearest]
        counts = (depth > 0) & (ahead > -self.truncation) & (trust > 0)
        seen, nearest, ahead, trust = seen[counts], nearest[counts], ahead[counts], trust[counts]
        # What is behind a surface is guessed; a surface seen from its other side shall win over the guess.
        behind = ((self.truncation + ahead) / (self.truncation - self.voxel)).clamp(max=1.0)
        weight = trust * behind
        slots = self._slots[blocks][:, None] * SIDE**3 + torch.arange(SIDE**3, device=self.device)
        index = slots.view(-1)[seen]
        before = self._weight.view(-1)[index]
        share = weight / (before + weight).clamp_min(1e-12)
        distance = self._distance.view(-1)
        distance[index] += share * ((ahead / self.truncation).clamp(max=1.0) - distance[index])
        self._weight.view(-1)[index] = before + weight
        # Before surfaces a pixel shows what is behind the voxel.
        near = (ahead < self.truncation).nonzero()[:, 0]
        colour, rgb = self._colour.view(-1, 3), view.rgb.reshape(-1, 3)
        index = index[near]
        old = colour[index].float()
        colour[index] = (old + share[near, None] * (rgb[nearest[near]] - old)).half()

    def coordinates_of(self, blocks: Int[Tensor, " S"]) -> Int[Tensor, "S 3"]:
        """Coordinates of some blocks; see `coordinates`."""
        return unpacked(self._keys[blocks])

    def dense(
        self, start: tuple[int, int, int], blocks: int
    ) -> tuple[Float[Tensor, "n n n"], Float[Tensor, "n n n"], Float[Tensor, "n n n 3"]]:
        """Distance (in truncations), weight and colour of a cube of blocks and one voxel more at its far ends.

        Args:
            start: the first block.
            blocks: along each side.

        Returns:
            n = 8 blocks + 1; weight 0 where nothing is known.
        """
        side = SIDE * blocks + 1
        distance = torch.ones(side, side, side, device=self.device)
        weight = torch.zeros(side, side, side, device=self.device)
        colour = torch.zeros(side, side, side, 3, device=self.device)
        coordinates = self.coordinates() - torch.tensor(start, device=self.device)
        inside = ((coordinates >= 0) & (coordinates <= blocks)).all(-1).nonzero()[:, 0]
        for position in inside.tolist():
            lows = (coordinates[position] * SIDE).tolist()
            highs = [min(low + SIDE, side) for low in lows]
            place = tuple(slice(low, high) for low, high in zip(lows, highs, strict=True))
            part = tuple(slice(0, high - low) for low, high in zip(lows, highs, strict=True))
            slot = int(self._slots[position])
            distance[place] = self._distance[slot].view(SIDE, SIDE, SIDE)[part]
            weight[place] = self._weight[slot].view(SIDE, SIDE, SIDE)[part]
            colour[place] = self._colour[slot].view(SIDE, SIDE, SIDE, 3)[part].float()
        return distance, weight, colour


def packed(coordinates: Int[Tensor, "*shape 3"]) -> Int[Tensor, "*shape"]:
    """One number for a block, in the order of its coordinates.

    >>> int(packed(torch.tensor([0, 0, 1])) - packed(torch.tensor([0, 0, 0])))
    1
    """
    x, y, z = (coordinates.clamp(-_HALF, _HALF - 1) + _HALF).unbind(-1)
    return (x << 42) | (y << 21) | z


def unpacked(keys: Int[Tensor, " B"]) -> Int[Tensor, "B 3"]:
    """Coordinates of `packed` blocks."""
    mask = (1 << 21) - 1
    return torch.stack([keys >> 42, (keys >> 21) & mask, keys & mask], -1) - _HALF


def _block_offsets(device: torch.device) -> Int[Tensor, "voxels 3"]:
    along = torch.arange(SIDE, device=device)
    return torch.stack(torch.meshgrid(along, along, along, indexing="ij"), -1).view(-1, 3)


def _depth_at(
    depth: Float[Tensor, "H W"],
    x: Float[Tensor, " P"],
    y: Float[Tensor, " P"],
    nearest: Int[Tensor, " P"],
    smooth: float,
) -> Float[Tensor, " P"]:
    """Depth between pixel centres: bilinear on smooth surfaces, that of the pixel itself elsewhere.

    Args:
        depth: of the image, scene units.
        x, y: places in pixels, within the image.
        nearest: index of the pixel that each place is in.
        smooth: largest difference of four neighbours on one surface, scene units.
    """
    height, width = depth.shape
    left, top = (x - 0.5).clamp(0, width - 1), (y - 0.5).clamp(0, height - 1)
    column, row = left.long().clamp(max=max(width - 2, 0)), top.long().clamp(max=max(height - 2, 0))
    right, down = left - column, top - row
    flat, corner = depth.flatten(), row * width + column
    step, line = min(1, width - 1), width * min(1, height - 1)
    a, b, c, d = flat[corner], flat[corner + step], flat[corner + line], flat[corner + line + step]
    low = torch.minimum(torch.minimum(a, b), torch.minimum(c, d))
    high = torch.maximum(torch.maximum(a, b), torch.maximum(c, d))
    mixed = torch.lerp(torch.lerp(a, b, right), torch.lerp(c, d, right), down)
    return torch.where((low > 0) & (high - low < smooth), mixed, flat[nearest])
