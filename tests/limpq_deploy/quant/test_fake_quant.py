import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.quant import fake_quant
from limpq_deploy.quant.fake_quant import (
    LearnedScales,
    fake_quantize,
    nearest_power,
    quantize,
    require_finite_gradients,
)
from limpq_deploy.quant.lsq_kernel import Kernel, load_kernel

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


@pytest.fixture(params=["C", "torch"], scope="module")
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The operator by the compiled kernel, and by torch's operations, which run on GPUs and without a compiler."""
    found: Kernel | None = None
    if request.param == "C":
        try:
            found = load_kernel(tmp_path_factory.mktemp("cache"))
        except OSError as error:
            pytest.skip(f"the operator cannot be compiled here: {error}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_quant, "kernel", lambda: found)
        yield request.param


@settings(deadline=None)
@given(steps=quarter_steps, scale=powers_of_two, grid=grids)
def test_gradients_equal_the_closed_form_below_inside_above_and_at_ties(
    way: str, steps: NDArray[np.float64], scale: float, grid: QuantGrid
) -> None:
    x = torch.tensor(steps * scale, requires_grad=True)
    s = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    upstream = np.cos(np.arange(len(steps)))

    fake_quantize(x, s, grid, elements=len(steps)).backward(torch.tensor(upstream))

    grad_x, grad_s = closed_form(steps, upstream, grid)
    assert x.grad is not None
    assert s.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), grad_x)
    damped = grad_s / math.sqrt(len(steps) * grid.qmax)
    # Both sum the same float64 terms, in another order.
    assert s.grad.item() == pytest.approx(damped, rel=1e-12, abs=1e-9)


def test_the_gradient_of_a_scale_written_out(way: str) -> None:
    """Steps -3 (below -2), 0.25, 0.75, 5 (above 1) on the grid -2 .. 1: slopes -2, -0.25, 0.25, 1, each times its
    upstream 1, 2, 4, 8, and 1 / sqrt(4 * 1)."""
    x = torch.tensor([-1.5, 0.125, 0.375, 2.5], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    out = fake_quantize(x, scale, QuantGrid(bits=2, signed=True), elements=4)
    out.backward(torch.tensor([1.0, 2.0, 4.0, 8.0]))
    assert out.tolist() == [-1.0, 0.0, 0.5, 0.5]
    assert x.grad is not None
    assert scale.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 4.0, 0.0]
    assert scale.grad.item() == (-2 - 0.5 + 1 + 8) / 2


def test_the_mask_looks_at_the_unrounded_value(way: str) -> None:
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
def test_fake_quantize_twice_equals_once(way: str, x: list[float], scale: float, grid: QuantGrid) -> None:
    s = torch.tensor(scale)
    once = fake_quantize(torch.tensor(x), s, grid, elements=len(x))
    assert torch.equal(fake_quantize(once, s, grid, elements=len(x)), once)


@settings(deadline=None)
@given(x=tensors, scale=scales, grid=grids)
def test_codes_are_integers_of_the_grid_and_give_the_same_values(
    way: str, x: list[float], scale: float, grid: QuantGrid
) -> None:
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


@settings(deadline=None)
@given(step=st.floats(-1e6, 1e6))
def test_a_scale_and_its_gradients_stay_finite_however_far_the_logarithm_goes(step: float) -> None:
    scales = LearnedScales((QuantGrid(bits=8, signed=True),))
    with torch.no_grad():
        scales.log_scale.add_(step)
    scale = scales.scale(0)
    x = torch.tensor([-3.0, 0.0, 1e-9, 7.0], requires_grad=True)
    fake_quantize(x, scale, scales.grids[0], elements=4).sum().backward()
    assert 0 < scale.item() < math.inf
    assert scales.values() == [scale.item()]
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert scales.log_scale.grad is not None
    assert scales.log_scale.grad.isfinite().all()


def test_a_gradient_that_is_not_finite_is_refused_with_the_quantizers_name() -> None:
    grid = QuantGrid(bits=4, signed=True)
    scales = {name: LearnedScales((grid,)) for name in ("a", "b")}
    model = nn.ModuleDict(scales)
    for name, value in (("a", 2.0), ("b", math.nan)):
        fake_quantize(torch.tensor([1.0, value]), scales[name].scale(0), grid, elements=2).sum().backward()
    with pytest.raises(ModelError, match="gradient of the scale of 'b' became nan"):
        require_finite_gradients(model)
    scales["b"].zero_grad()
    require_finite_gradients(model)


@pytest.mark.parametrize("type_", [torch.float16, torch.bfloat16])
def test_half_precision_is_quantized_in_float32(type_: torch.dtype) -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)).to(type_).requires_grad_()
    scale = torch.tensor(0.1)
    out = fake_quantize(x, scale, QuantGrid(bits=4, signed=True), elements=50)
    assert out.dtype == torch.float32
    assert torch.equal(out, fake_quantize(x.detach().float(), scale, QuantGrid(bits=4, signed=True), elements=50))
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == type_


@settings(deadline=None)
@given(steps=quarter_steps, grid=grids, axis=st.integers(0, 2))
def test_per_channel_gradients_are_the_closed_form_of_every_channel(
    way: str, steps: NDArray[np.float64], grid: QuantGrid, axis: int
) -> None:
    whole = np.moveaxis(np.stack([steps, steps[::-1] / 2, steps * 3])[:, None], 0, axis)
    scale = np.array([0.5, 0.25, 4.0])
    shape = [-1 if dim == axis else 1 for dim in range(3)]
    x = torch.tensor(whole * scale.reshape(shape), requires_grad=True)
    s = torch.tensor(scale, requires_grad=True)
    upstream = np.cos(np.arange(whole.size)).reshape(whole.shape)

    out = fake_quantize(x, s, grid, elements=len(steps), axis=axis)
    out.backward(torch.tensor(upstream))

    assert x.grad is not None
    assert s.grad is not None
    for channel in range(3):
        grad_x, grad_s = closed_form(np.take(whole, channel, axis), np.take(upstream, channel, axis), grid)
        np.testing.assert_array_equal(np.take(x.grad.numpy(), channel, axis), grad_x)
        damped = grad_s / math.sqrt(len(steps) * grid.qmax)
        # Both sum the same float64 terms, in another order.
        assert s.grad[channel].item() == pytest.approx(damped, rel=1e-12, abs=1e-9)


def test_channels_last_stays_channels_last_forward_and_back() -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    out = fake_quantize(x, torch.tensor(0.1), QuantGrid(bits=4, signed=True), elements=60)
    assert out.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_scales_start_where_they_are_told_and_remember_it() -> None:
    scales = LearnedScales((QuantGrid(bits=2, signed=True), QuantGrid(bits=8, signed=True)))
    scales.initialise([0.5, 1e-3])
    # exp(log(s)) in float32 is off by at most a few units in the last place.
    assert [scales.scale(0).item(), scales.scale(1).item()] == pytest.approx([0.5, 1e-3], rel=1e-6)
    assert scales.first.tolist() == pytest.approx([0.5, 1e-3])


@given(scale=st.floats(2.0**-80, 2.0**80))
def test_a_scale_of_powers_is_exactly_the_power_next_to_what_is_learned(scale: float) -> None:
    for dtype in (torch.float32, torch.float64):
        found = nearest_power(torch.tensor(math.log(scale), dtype=dtype)).item()
        assert math.frexp(found)[0] == 0.5
        assert 2**-0.5 - 1e-4 <= found / scale <= 2**0.5 + 1e-4


def test_gradients_go_straight_through_the_rounding_of_a_power() -> None:
    scales = LearnedScales((QuantGrid(bits=4, signed=False),), pow2=True)
    scales.initialise([0.3])
    assert scales.values() == [0.25]
    (3 * scales.scale(0)).backward()
    assert scales.log_scale.grad is not None
    assert scales.log_scale.grad.item() == pytest.approx(0.75)


def test_every_channel_takes_the_power_next_to_its_own_folded_scale() -> None:
    scales = LearnedScales((QuantGrid(bits=4, signed=True),), pow2=True)
    scales.initialise([0.25])
    factors, octaves = torch.tensor([1.0, 0.5, 3.0, 1.3, 0.0, 1.0]), torch.tensor([0.0, 0, 0, 0, 0, -2])
    assert scales.folded_powers(0, factors, octaves).tolist() == [0.25, 0.125, 1.0, 0.25, 0.25, 0.0625]
