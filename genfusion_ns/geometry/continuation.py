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
_KNOWN = 0.5
"""Share of a cell that must be known for its mean to hold."""


def continue_colours(
    colours: Float[Tensor, "T H W 3"],
    known: Bool[Tensor, "T H W 1"],
    towards: Float[Tensor, "T H W 3"],
    reach: float = REACH,
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
    counts = known.movedim(-1, 1).to(colours)
    excess = torch.where(known, colours - towards, 0.0).movedim(-1, 1)
    share, mean = (functional.interpolate(x, size=size, mode="area") for x in (counts, excess))
    given = (mean / share.clamp(min=1e-6)).movedim(1, -1).double().cpu().numpy()
    held = (share[:, 0] > _KNOWN).cpu().numpy()
    screen = 1 / (reach * max(size)) ** 2
    solved = np.stack([_solve(frame, fixed, screen) for frame, fixed in zip(given, held, strict=True)])
    smooth = torch.from_numpy(solved).to(colours).movedim(-1, 1)
    smooth = functional.interpolate(smooth, size=(height, width), mode="bilinear", align_corners=False)
    return towards + smooth.movedim(1, -1)


def _solve(given: np.ndarray, fixed: np.ndarray, screen: float) -> np.ndarray:
    """The free cells of one frame [h, w, 3] from its `fixed` ones [h, w]; `screen`: 1 / L^2, per cell squared."""
    solution = np.where(fixed[..., None], given, 0.0).reshape(-1, given.shape[-1])
    free = ~fixed.ravel()
    if free.all() or not free.any():
        return solution.reshape(given.shape)
    index = np.arange(fixed.size).reshape(fixed.shape)
    pairs = np.concatenate(
        [np.stack([a.ravel(), b.ravel()]) for a, b in ((index[1:], index[:-1]), (index[:, 1:], index[:, :-1]))], axis=1
    )
    rows, columns = np.concatenate([pairs, pairs[::-1]], axis=1)
    joined = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(fixed.size, fixed.size)).tocsr()
    degrees = np.asarray(joined.sum(axis=1)).ravel()
    system = (diags(degrees + screen) - joined).tocsr()[free]
    solution[free] = splu(system[:, free].tocsc()).solve(-system[:, ~free] @ solution[~free])
    return solution.reshape(given.shape)
