"""Colours of what is known, continued smoothly over what is not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu
from torch import Tensor
from torch.nn import functional

REACH = 0.2
"""Distance over which a continued colour has faded to 1/e, as a share of the longer side of the picture."""
_CELLS = 64
"""Cells along the longer side of the picture; what is guessed has no finer detail."""
_HELD, _LOOSE = 0.2, 1e-4
"""Pull of cells towards what is known of them: the first times the known share, over the second and the unknown share.
What is known frays at its edges, and holds less there; and no cell comes or goes at once when a camera moves."""
_BESIDE, _FALL = 12, 6
"""Cells within which edges of the unknown are compared, and the power of their ratio of depths with which the nearer
one loses."""


@dataclass(frozen=True)
class Continued:
    """Colours that go on from what is known."""

    colours: Float[Tensor, "T H W 3"]
    """Smooth, close to the given ones where cells are wholly known; a constant for gradients."""
    known: Float[Tensor, "T H W 1"]
    """How much of them comes from what is known, 0..1: it fades with the distance from there."""


def continue_colours(
    colours: Float[Tensor, "T H W 3"],
    known: Bool[Tensor, "T H W 1"],
    towards: Float[Tensor, "T H W 3"],
    reach: float = REACH,
    depth: Float[Tensor, "T H W 1"] | None = None,
) -> Continued:
    """Colours of the known pixels, continued over the others, and fading with the distance to other colours.

    What differs from `towards`, as d, solves the screened Poisson equation: L^2 times its Laplacian is d where nothing
    is known. Nothing flows over the borders of a picture, so that what reaches one goes on along it; d is nowhere
    larger than where it is known. In cells of a 64th of the longer side, bilinear between their middles.

    Args:
        colours: of any value where they are not known.
        known: pixels whose colours hold; those that are not finite do not.
        towards: what is shown far from everything known.
        reach: L, as a share of the longer side.
        depth: above 0 where colours are known. What is far goes on behind what is near: where both are beside the
            unknown, next to nothing flows from the near one. None: everything goes on alike.

    Raises:
        ValueError: the reach is not above 0.
    """
    if reach <= 0:
        raise ValueError(f"the reach of a continuation is {reach}; it must be above 0")
    colours, towards = colours.detach(), towards.detach()
    known = known & colours.isfinite().all(-1, keepdim=True)
    if depth is not None:
        depth = depth.detach()
        known = known & depth.isfinite()
    if not bool(known.any()):
        return Continued(towards, towards.new_zeros(known.shape))
    height, width = colours.shape[1:3]
    scale = min(1.0, _CELLS / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    # Beside the colours what is 1 where they are known, and fades as they do.
    share, excess = _in_cells(torch.cat([colours - towards, torch.ones_like(towards[..., :1])], dim=-1), known, size)
    flow = torch.ones_like(share) if depth is None else _flow_by_depth(_in_cells(depth, known, size)[1], share)
    pull = _HELD * share / (1 - share + _LOOSE)
    screen = 1 / (reach * max(size)) ** 2
    planes = (x.movedim(1, -1).double().cpu().numpy() for x in (excess, pull, flow))
    solved = np.stack([_solve(given, held, out, screen) for given, held, out in zip(*planes, strict=True)])
    smooth = torch.from_numpy(solved).to(colours).movedim(-1, 1)
    smooth = functional.interpolate(smooth, size=(height, width), mode="bilinear", align_corners=False).movedim(1, -1)
    return Continued(towards + smooth[..., :3], smooth[..., 3:].clamp(0, 1))


def _in_cells(
    values: Float[Tensor, "T H W C"], known: Bool[Tensor, "T H W 1"], size: tuple[int, int]
) -> tuple[Float[Tensor, "T 1 h w"], Float[Tensor, "T C h w"]]:
    """Shares of (height, width) `size` cells that are known, and the means of the values there."""
    parts = (known.to(values), torch.where(known, values, 0.0))
    share, total = (functional.interpolate(x.movedim(-1, 1), size=size, mode="area") for x in parts)
    return share, total / share.clamp(min=1e-6)


def _flow_by_depth(depth: Float[Tensor, "T 1 h w"], share: Float[Tensor, "T 1 h w"]) -> Float[Tensor, "T 1 h w"]:
    """How much flows from each cell into others: 1 where nothing is known, or nothing farther beside the unknown."""
    at_edge = functional.max_pool2d(1 - share, 3, stride=1, padding=1)
    farthest = functional.max_pool2d(depth * share * at_edge, 2 * _BESIDE + 1, stride=1, padding=_BESIDE)
    return torch.lerp(torch.ones_like(share), (depth / farthest.clamp(min=1e-12)).clamp(max=1.0) ** _FALL, share)


def _solve(given: np.ndarray, pull: np.ndarray, flow: np.ndarray, screen: float) -> np.ndarray:
    """What cells show, of one frame [h, w, C].

    Args:
        given: what is known of them.
        pull: towards that, 0 where nothing is known. [h, w, 1]
        flow: conductance from each cell to its neighbours. [h, w, 1]
        screen: 1 / L^2, per cell squared.
    """
    index = np.arange(pull.size).reshape(pull.shape[:2])
    beside = ((index[1:], index[:-1]), (index[:, 1:], index[:, :-1]))
    pairs = np.concatenate([np.stack([a.ravel(), b.ravel()]) for a, b in beside], axis=1)
    to, source = np.concatenate([pairs, pairs[::-1]], axis=1)
    joined = coo_matrix((flow.ravel()[source], (to, source)), shape=(pull.size, pull.size)).tocsr()
    degrees = np.asarray(joined.sum(axis=1)).ravel()
    system = diags(degrees + screen + pull.ravel()) - joined
    return splu(system.tocsc()).solve((pull * given).reshape(pull.size, -1)).reshape(given.shape)
