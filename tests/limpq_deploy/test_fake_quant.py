import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from limpq_deploy.calibration.grid import QuantGrid
from limpq_deploy.fake_quant import LearnedScales, fake_quantize, lsq_grad_scale, quantize

grids = st.builds(QuantGrid, bits=st.integers(2, 8), signed=st.booleans())
powers_of_two = st.integers(-8, 4).map(lambda exponent: 2.0**exponent)
quarter_steps = st.lists(st.integers(-1200, 1200), min_size=1, max_size=40).map(lambda codes: np.array(codes) / 4)
"""Quarters of a step hit every tie and both ends of every grid exactly."""
scales = st.floats(2**-13, 2**10, width=32)
tensors = st.lists(st.floats(-(2**14), 2**14, width=32), min_size=1, max_size=40)


def closed_form(
    steps: NDArray[np.float64], upstream: NDArray[np.float64], grid: QuantGrid
) -> tuple[NDArray[np.float64], float]:
    """d/dx per element and d/ds before its damping, written from the paper."""
    inside = (grid.qmin <= steps) & (steps <= grid.qmax)
    below = steps < grid.qmin
    slope = np.where(inside, np.rint(steps) - steps, np.where(below, grid.qmin, grid.qmax))
    return np.where(inside, upstream, 0.0), float((upstream * slope).sum())


@settings(deadline=None)
@given(steps=quarter_steps, scale=powers_of_two, grid=grids)
def test_gradients_equal_the_closed_form_below_inside_above_and_at_ties(
    steps: NDArray[np.float64], scale: float, grid: QuantGrid
) -> None:
    x = torch.tensor(steps * scale, requires_grad=True)
    s = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    upstream = np.cos(np.arange(len(steps)))

    fake_quantize(x, s, grid, elements=len(steps)).backward(torch.tensor(upstream))

    grad_x, grad_s = closed_form(steps, upstream, grid)
    assert x.grad is not None
    assert s.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), grad_x)
    damped = grad_s * lsq_grad_scale(len(steps), grid.qmax)
    # Both sum the same float64 terms, in another order.
    assert s.grad.item() == pytest.approx(damped, rel=1e-12, abs=1e-9)


def test_the_mask_looks_at_the_unrounded_value() -> None:
    x = torch.tensor([3.4, 2.6], requires_grad=True)
    fake_quantize(x, torch.tensor(1.0), QuantGrid(bits=2, signed=False), elements=2).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0]


def test_ties_go_to_the_even_code() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    codes = quantize(x, torch.tensor(1.0), QuantGrid(bits=4, signed=True))
    assert codes.tolist() == [0, 2, 2, 0, -2]


@settings(deadline=None)
@given(x=tensors, scale=scales, grid=grids)
def test_fake_quantize_twice_equals_once(x: list[float], scale: float, grid: QuantGrid) -> None:
    s = torch.tensor(scale)
    once = fake_quantize(torch.tensor(x), s, grid, elements=len(x))
    assert torch.equal(fake_quantize(once, s, grid, elements=len(x)), once)


@settings(deadline=None)
@given(x=tensors, scale=scales, grid=grids)
def test_codes_are_integers_of_the_grid_and_give_the_same_values(x: list[float], scale: float, grid: QuantGrid) -> None:
    values, s = torch.tensor(x), torch.tensor(scale)
    codes = quantize(values, s, grid)
    assert torch.equal(codes, codes.round())
    assert codes.min() >= grid.qmin
    assert codes.max() <= grid.qmax
    assert torch.equal(codes * s, fake_quantize(values, s, grid, elements=len(x)))


def test_the_gradient_of_an_activation_scale_does_not_depend_on_the_batch_size() -> None:
    scales = LearnedScales((QuantGrid(bits=2, signed=False),))
    image = torch.linspace(-1, 5, 31).reshape(1, 31)
    grads = []
    for repeat in (1, 8):
        scales.zero_grad()
        fake_quantize(image.repeat(repeat, 1), scales.scale(0), scales.grids[0], elements=31).sum(1).mean().backward()
        assert scales.log_scale.grad is not None
        grads.append(scales.log_scale.grad.item())
    assert grads[0] != 0
    # Sums of 8 equal float32 terms.
    assert grads[1] == pytest.approx(grads[0], rel=1e-5)


@settings(deadline=None)
@given(gradient=st.floats(-1024, 1024, width=32), rate=st.floats(1e-3, 1.0))
def test_a_scale_stays_positive_whatever_the_optimizer_does(gradient: float, rate: float) -> None:
    scales = LearnedScales((QuantGrid(bits=4, signed=True),))
    scales.initialise([1e-6])
    optimizer = torch.optim.Adam(scales.parameters(), lr=rate)
    for _ in range(20):
        scales.log_scale.grad = torch.tensor([gradient])
        optimizer.step()
    scale = scales.scale(0).item()
    assert scale > 0
    assert math.isfinite(scale)


def test_scales_start_where_they_are_told_and_remember_it() -> None:
    scales = LearnedScales((QuantGrid(bits=2, signed=True), QuantGrid(bits=8, signed=True)))
    scales.initialise([0.5, 1e-3])
    # exp(log(s)) in float32 is off by at most a few units in the last place.
    assert [scales.scale(0).item(), scales.scale(1).item()] == pytest.approx([0.5, 1e-3], rel=1e-6)
    assert scales.first.tolist() == pytest.approx([0.5, 1e-3])
