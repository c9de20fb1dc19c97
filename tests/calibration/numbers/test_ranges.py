import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.numbers.entropy import entropy_threshold
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.ranges import (
    DEAD,
    RANGES,
    SMALLEST,
    RangeMethod,
    entropy,
    least_squares,
    lsq_mean_abs,
    min_max,
    percentile,
    power_of_two,
    three_sigma,
)

grids = st.builds(QuantGrid, bits=st.integers(2, 8), signed=st.booleans())
values = st.lists(st.floats(-1024, 1024, width=32), min_size=2, max_size=50).map(torch.tensor)
U4 = QuantGrid(bits=4, signed=False)
S4 = QuantGrid(bits=4, signed=True)


def squared_error(x: torch.Tensor, scale: float, grid: QuantGrid) -> float:
    return float((x - (x / scale).round().clamp(grid.qmin, grid.qmax) * scale).square().mean())


def test_lsq_mean_abs_follows_its_formula() -> None:
    assert lsq_mean_abs(torch.tensor([1.0, -3.0]), U4) == pytest.approx(2 * 2 / math.sqrt(15))


def test_three_sigma_follows_its_formula() -> None:
    # mean 1, standard deviation 2 (of the population).
    assert three_sigma(torch.tensor([-1.0, 3.0]), S4) == pytest.approx(7 / 8)


def test_min_max_is_the_smallest_scale_that_clips_nothing() -> None:
    assert min_max(torch.tensor([-4.0, 3.5]), S4) == pytest.approx(0.5)
    assert min_max(torch.tensor([-1.0, 7.0]), S4) == pytest.approx(1.0)
    assert min_max(torch.tensor([0.0, 30.0]), U4) == pytest.approx(2.0)


def test_least_squares_clips_an_outlier_where_that_costs_less() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.rand(10_000, generator=generator), torch.tensor([4.0])])
    scale = least_squares(x, U4)
    assert scale < 0.6 * min_max(x, U4)
    assert squared_error(x, scale, U4) < squared_error(x, min_max(x, U4), U4)


@settings(deadline=None)
@given(x=values, grid=grids)
def test_least_squares_is_never_worse_than_min_max(x: torch.Tensor, grid: QuantGrid) -> None:
    worst = squared_error(x, min_max(x, grid), grid)
    # The two errors are float32 means of the same terms.
    assert squared_error(x, least_squares(x, grid), grid) <= worst * (1 + 1e-5) + 1e-12


@settings(deadline=None, max_examples=30)
@given(x=values, grid=grids)
def test_every_first_scale_is_positive_and_finite(x: torch.Tensor, grid: QuantGrid) -> None:
    for first in (lsq_mean_abs, three_sigma, *RANGES.values()):
        scale = first(x, grid)
        assert scale > 0
        assert math.isfinite(scale)


def test_a_tensor_of_zeros_still_gets_a_positive_scale() -> None:
    assert min_max(torch.zeros(3), U4) == DEAD
    assert least_squares(torch.zeros(3), U4) > 0


@pytest.mark.parametrize("power", [-70, 70])
@pytest.mark.parametrize("first", [lsq_mean_abs, three_sigma, *RANGES.values()])
def test_a_tensor_of_any_size_is_treated_alike(first: RangeMethod, power: int) -> None:
    """Multiplied by 2^70 or 2^-70, whose squares float32 does not hold, it has 2^70 or 2^-70 times the scale."""
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert first(x * 2.0**power, S4) == pytest.approx(first(x, S4) * 2.0**power, rel=1e-6)


@settings(deadline=None)
@given(x=values, grid=grids, share=st.floats(50, 100))
def test_percentile_is_numpys_of_the_scale_that_each_value_asks_for(
    x: torch.Tensor, grid: QuantGrid, share: float
) -> None:
    plain = x.numpy().astype(np.float64)
    below = plain / grid.qmin if grid.qmin < 0 else np.zeros_like(plain)
    asked = np.maximum(np.maximum(plain / grid.qmax, below), 0)
    found = np.percentile(asked, share)
    expected = max(found, SMALLEST) if found > 0 else DEAD
    assert percentile(x, grid, share=share) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None)
@given(x=values, grid=grids)
def test_the_hundredth_percentile_is_min_max(x: torch.Tensor, grid: QuantGrid) -> None:
    assert percentile(x, grid, share=100) == pytest.approx(min_max(x, grid), rel=1e-6)


def test_mse_is_the_best_of_its_fractions_in_plain_numpy() -> None:
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    plain = x.numpy().astype(np.float64)
    for grid in (S4, QuantGrid(bits=8, signed=True)):
        widest = max(plain.max() / grid.qmax, plain.min() / grid.qmin)
        tried = [widest * step / 64 for step in range(5, 65)]
        errors = [((plain - (plain / s).round().clip(grid.qmin, grid.qmax) * s) ** 2).mean() for s in tried]
        assert least_squares(x, grid) == pytest.approx(tried[int(np.argmin(errors))], rel=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_entropy_chooses_among_as_many_levels_as_the_grid_has_codes_from_zero_on(bits: int) -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    for signed, largest in ((False, 2**bits - 1), (True, 2 ** (bits - 1) - 1)):
        threshold = entropy_threshold(x.abs().numpy(), largest + 1)
        assert entropy(x, QuantGrid(bits=bits, signed=signed)) == pytest.approx(threshold / largest, rel=1e-12)


def test_of_two_powers_of_two_the_one_with_less_error_is_taken() -> None:
    grid = QuantGrid(bits=2, signed=False)
    assert power_of_two(torch.tensor([0.0, 1.0, 2.0, 3.0]), grid, 0.9) == 1.0
    assert power_of_two(torch.tensor([0.0, 0.5, 1.0, 1.5]), grid, 0.9) == 0.5
    assert power_of_two(torch.tensor([0.0, 0.5, 1.0, 1.5]), grid, 0.5) == 0.5
