"""Continued colours against closed forms of the screened Poisson equation."""

from __future__ import annotations

import math

import pytest
import torch

from genfusion_ns.geometry.continuation import continue_colours


def _column_known(width: int, columns: list[int], height: int = 6) -> torch.Tensor:
    known = torch.zeros(1, height, width, 1, dtype=torch.bool)
    known[:, :, columns] = True
    return known


def test_known_pixels_and_a_world_of_one_colour_stay_as_they_are() -> None:
    colours = torch.rand(2, 12, 20, 3, generator=torch.Generator().manual_seed(0))
    known = torch.rand(2, 12, 20, 1, generator=torch.Generator().manual_seed(1)) > 0.5
    towards = torch.full_like(colours, 0.25)
    continued = continue_colours(colours, known, towards).colours  # small pictures have a cell for each pixel
    torch.testing.assert_close(torch.where(known, continued, 0.0), torch.where(known, colours, 0.0), atol=4e-3, rtol=0)
    grey = continue_colours(torch.full_like(colours, 0.25), known, towards).colours
    torch.testing.assert_close(grey, towards)


def test_colours_fade_exponentially_with_the_distance() -> None:
    """One known edge of a long strip: cosh((W - x) / L) / cosh(W / L), as nothing flows out at the other end."""
    width, reach = 60, 0.2
    colours, towards = torch.zeros(1, 6, width, 3), torch.zeros(1, 6, width, 3)
    colours[:, :, 0] = 1.0
    continued = continue_colours(colours, _column_known(width, [0]), towards, reach)
    share, continued = continued.known[0, 3, :, 0], continued.colours[0, 3, :, 0]
    torch.testing.assert_close(share, continued)
    x, length = torch.arange(width, dtype=torch.float64), reach * width
    exact = torch.cosh((width - 0.5 - x) / length) / torch.cosh(torch.tensor((width - 0.5) / length))
    torch.testing.assert_close(continued, exact.float(), atol=4e-3, rtol=0)
    assert float(continued[int(length)]) == pytest.approx(math.exp(-1), abs=0.02)


def test_with_a_long_reach_colours_between_two_edges_change_in_a_line() -> None:
    colours, towards = torch.zeros(1, 6, 41, 3), torch.full((1, 6, 41, 3), 0.5)
    colours[:, :, 40] = 1.0
    continued = continue_colours(colours, _column_known(41, [0, 40]), towards, reach=100.0).colours[0, 2, :, 1]
    torch.testing.assert_close(continued, torch.linspace(0, 1, 41), atol=1e-3, rtol=0)


def test_the_equation_holds_in_every_free_cell() -> None:
    generator = torch.Generator().manual_seed(2)
    colours, towards = (torch.rand(1, 24, 32, 3, generator=generator) for _ in range(2))
    known = torch.rand(1, 24, 32, 1, generator=generator) > 0.8
    d = (continue_colours(colours, known, towards, reach=0.25).colours - towards)[0].double()
    beside = torch.nn.functional.pad(d.movedim(-1, 0)[None], (1, 1, 1, 1), mode="replicate")[0].movedim(0, -1)
    laplacian = beside[:-2, 1:-1] + beside[2:, 1:-1] + beside[1:-1, :-2] + beside[1:-1, 2:] - 4 * d
    residual = laplacian - d / (0.25 * 32) ** 2
    assert float((residual * ~known[0]).abs().max()) < 1e-5
    assert float(d.abs().max()) <= float((colours - towards)[0].abs().amax()) + 1e-6


def test_large_pictures_are_continued_in_cells_and_agree_with_small_ones() -> None:
    small, known = torch.zeros(1, 36, 64, 3), torch.zeros(1, 36, 64, 1, dtype=torch.bool)
    small[:, :, :32], known[:, :, :32] = torch.tensor([0.9, 0.4, 0.1]), True
    towards = torch.full_like(small, 0.2)
    by_pixel = continue_colours(small, known, towards).colours
    large, wide, far = (x.repeat_interleave(5, dim=1).repeat_interleave(5, dim=2) for x in (small, known, towards))
    by_cell = continue_colours(large, wide, far).colours
    torch.testing.assert_close(by_cell[:, 2::5, 2::5], by_pixel, atol=1e-4, rtol=0)


@pytest.mark.parametrize("known_everywhere", [False, True])
def test_nothing_known_gives_what_is_far_and_everything_known_the_colours(known_everywhere: bool) -> None:
    colours, towards = torch.rand(1, 8, 8, 3), torch.rand(1, 8, 8, 3)
    known = torch.full((1, 8, 8, 1), known_everywhere)
    wanted = colours if known_everywhere else towards
    torch.testing.assert_close(continue_colours(colours, known, towards).colours, wanted, atol=4e-3, rtol=0)


def test_no_colour_jumps_when_a_pixel_more_is_known() -> None:
    """A camera that moves uncovers one row of pixels at a time; of 4 in a cell."""
    colours, towards = torch.ones(1, 256, 256, 3), torch.zeros(1, 256, 256, 3)
    known = [torch.zeros(1, 256, 256, 1, dtype=torch.bool) for _ in range(5)]
    for rows, mask in enumerate(known):
        mask[:, : 64 + rows] = True
    seen = [continue_colours(colours, mask, towards).colours[0, 80, 128, 0] for mask in known]
    steps = torch.stack(seen).diff()
    assert (steps > 0).all() and steps.max() < 0.7 * steps.sum(), "a threshold would jump once"


def test_a_reach_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        continue_colours(torch.rand(1, 8, 8, 3), torch.ones(1, 8, 8, 1, dtype=torch.bool), torch.rand(1, 8, 8, 3), 0.0)


def test_what_is_far_goes_on_behind_what_is_near() -> None:
    """A gap between a near red thing and a far blue wall is blue nearly all over, and purple where depth is unknown."""
    colours, depth = torch.zeros(1, 9, 21, 3), torch.full((1, 9, 21, 1), 4.0)
    known = _column_known(21, list(range(8)) + list(range(13, 21)), height=9)
    colours[:, :, :10, 0], colours[:, :, 10:, 2] = 1.0, 1.0
    depth[:, :, :10] = 1.0
    towards = torch.full_like(colours, 0.5)
    alike = continue_colours(colours, known, towards, reach=100.0).colours[0, 4, 8:13]
    torch.testing.assert_close(alike[2], torch.tensor([0.5, 0.0, 0.5]), atol=1e-3, rtol=0)
    behind = continue_colours(colours, known, towards, reach=100.0, depth=depth).colours[0, 4, 8:13]
    assert (behind[:, 2] > 0.95).all() and (behind[:, 0] < 0.05).all()
    even = continue_colours(colours, known, towards, reach=100.0, depth=torch.ones_like(depth)).colours[0, 4, 8:13]
    torch.testing.assert_close(even, alike)


def test_what_is_not_finite_is_not_known_and_gradients_end_here() -> None:
    colours, towards = torch.rand(1, 8, 8, 3), torch.rand(1, 8, 8, 3)
    known, depth = torch.ones(1, 8, 8, 1, dtype=torch.bool), torch.ones(1, 8, 8, 1)
    colours[0, 2, 2, 1], depth[0, 5, 5] = torch.nan, torch.inf
    continued = continue_colours(colours.requires_grad_(), known, towards.requires_grad_(), depth=depth)
    assert continued.colours.isfinite().all() and not continued.colours.requires_grad
    others = (known & colours.isfinite().all(-1, keepdim=True) & depth.isfinite()).expand_as(colours)
    torch.testing.assert_close(continued.colours[others], colours.detach()[others], atol=4e-3, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 200), (130, 3)])
def test_any_size_will_do(size: tuple[int, int]) -> None:
    colours, known = torch.full((2, *size, 3), 0.3), torch.zeros(2, *size, 1, dtype=torch.bool)
    known[:, 0, 0] = True
    assert continue_colours(colours, known, torch.full_like(colours, 0.6)).colours.isfinite().all()
