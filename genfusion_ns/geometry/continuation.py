"""Colours of what is known, continued smoothly over what is not."""

from __future__ import annotations

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
_KNOWN = 0.9
"""Share of a cell that must be known for its mean to hold: what is known frays at its edge."""
_BESIDE, _FALL = 12, 6
"""Cells within which edges of the unknown are compared, and the power of their ratio of depths with which the nearer
one loses."""


def continue_colours(
    colours: Float[Tensor, "T H W 3"],
    known: Bool[Tensor, "T H W 1"],
    towards: Float[Tensor, "T H W 3"],
    reach: float = REACH,
    depth: Float[Tensor, "T H W 1"] | None = None,
) -> Float[Tensor, "T H W 3"]:
    """Colours of the known pixels, continued over the others, and fading with the distance to other colours.

    What differs from `towards`, as d, solves the screened Poisson equation: L^2 times its Laplacian is d where nothing
    is known. Nothing flows over the borders of a picture, so that what reaches one goes on along it. In cells of
    a 64th of the longer side, bilinear between their middles.

    Args:
        colours: of any value where they are not known.
        known: pixels whose colours hold.
        towards: what is shown far from everything known.
        reach: L, as a share of the longer side.
        depth: above 0 where colours are known. What is far goes on behind what is near: where both are beside the
            unknown, next to nothing flows from the near one. None: everything goes on alike.

    Returns:
        Smooth colours, close to the given ones where these are known; d is nowhere larger than there.

    Raises:
        ValueError: the reach is not above 0.
    """
    if reach <= 0:
        raise ValueError(f"the reach of a continuation is {reach}; it must be above 0")
    height, width = colours.shape[1:3]
    scale = min(1.0, _CELLS / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    share, excess = _in_cells(colours - towards, known, size)
    held = share > _KNOWN
    flow = torch.ones_like(share) if depth is None else _flow_by_depth(_in_cells(depth, known, size)[1], held)
    screen = 1 / (reach * max(size)) ** 2
    planes = (x.movedim(1, -1).double().cpu().numpy() for x in (excess, held, flow))
    solved = np.stack([_solve(*frame, screen) for frame in zip(*planes, strict=True)])
    smooth = torch.from_numpy(solved).to(colours).movedim(-1, 1)
    smooth = functional.interpolate(smooth, size=(height, width), mode="bilinear", align_corners=False)
    return towards + smooth.movedim(1, -1)


def _in_cells(
    values: Float[Tensor, "T H W C"], known: Bool[Tensor, "T H W 1"], size: tuple[int, int]
) -> tuple[Float[Tensor, "T 1 h w"], Float[Tensor, "T C h w"]]:
    """Shares of (height, width) `size` cells that are known, and the means of the values there."""
    parts = (known.to(values), torch.where(known, values, 0.0))
    share, total = (functional.interpolate(x.movedim(-1, 1), size=size, mode="area") for x in parts)
    return share, total / share.clamp(min=1e-6)


def _flow_by_depth(depth: Float[Tensor, "T 1 h w"], held: Bool[Tensor, "T 1 h w"]) -> Float[Tensor, "T 1 h w"]:
    """How much of each cell flows into free ones: 1 where nothing beside it is farther away."""
    beside_free = functional.max_pool2d((~held).to(depth), 3, stride=1, padding=1) > 0
    farthest = functional.max_pool2d(depth * (held & beside_free), 2 * _BESIDE + 1, stride=1, padding=_BESIDE)
    return (depth / farthest.clamp(min=1e-12)).clamp(max=1.0) ** _FALL


def _solve(given: np.ndarray, held: np.ndarray, flow: np.ndarray, screen: float) -> np.ndarray:
    """The free cells of one frame [h, w, 3] from those that are held.

    Args:
        given: values of the held cells.
        held: 1 or 0. [h, w, 1]
        flow: conductance from held cells to free ones. [h, w, 1]
        screen: 1 / L^2, per cell squared.
    """
    fixed, flow = held.ravel() > 0, flow.ravel()
    solution = np.where(held > 0, given, 0.0).reshape(fixed.size, -1)
    free = ~fixed
    if free.all() or fixed.all():
        return solution.reshape(given.shape)
    index = np.arange(fixed.size).reshape(given.shape[:2])
    pairs = np.concatenate(
        [np.stack([a.ravel(), b.ravel()]) for a, b in ((index[1:], index[:-1]), (index[:, 1:], index[:, :-1]))], axis=1
    )
    rows, columns = np.concatenate([pairs, pairs[::-1]], axis=1)
    links = np.where(fixed, flow, 1.0)
    joined = coo_matrix((links[columns], (rows, columns)), shape=(fixed.size, fixed.size)).tocsr()
    degrees = np.asarray(joined.sum(axis=1)).ravel()
    system = (diags(degrees + screen) - joined).tocsr()[free]
    solution[free] = splu(system[:, free].tocsc()).solve(-system[:, ~free] @ solution[~free])
    return solution.reshape(given.shape)
