"""Folding keeps real weights, rounds the bias finely, and refuses what integers cannot hold."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.export.graph.folding import BatchNormParams, IntegerLayer, fold


def folded(
    bits: int, seed: int, *, gamma: float | None = None, bias: float = 0.3, input_scale: float = 0.1
) -> IntegerLayer:
    rng = np.random.default_rng(seed)
    grid = QuantGrid(bits=bits, signed=True, narrow=bits == 8)
    channels = 4
    norm = BatchNormParams(
        gamma=rng.normal(size=channels) if gamma is None else np.full(channels, gamma),
        beta=rng.normal(size=channels),
        mean=rng.normal(size=channels),
        var=rng.random(channels) + 0.1,
        eps=1e-5,
    )
    return fold(
        name="conv",
        codes=rng.integers(grid.qmin, grid.qmax + 1, (channels, 3, 3, 3)),
        grid=grid,
        weight_scale=0.07,
        input_scale=input_scale,
        bias=np.full(channels, bias),
        batchnorm=norm,
    )


@given(bits=st.integers(2, 8), seed=st.integers(0, 10_000))
def test_narrow_weights_are_written_in_seven_bits_without_changing_a_bit_of_their_value(bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = QuantGrid(bits=bits, signed=True, narrow=bits == 8)
    codes = rng.integers(grid.qmin, grid.qmax + 1, (2, 5))
    scale = float(np.float32(rng.uniform(1e-4, 1)))
    layer = fold(name="fc", codes=codes, grid=grid, weight_scale=scale, input_scale=0.1, bias=None, batchnorm=None)
    assert layer.step == 2 ** max(7 - bits, 0)
    assert (layer.codes % layer.step == 0).all()
    assert np.abs(layer.codes.astype(int)).max() <= (127 if bits == 8 else 64)
    real = layer.codes.astype(np.float32) * layer.scale[:, None]
    assert real.tobytes() == (codes.astype(np.float32) * np.float32(scale)).tobytes()


def test_scale_and_bias_are_those_of_the_formula_eps_included() -> None:
    """factor = gamma / sqrt(var + eps) = 2 / sqrt(0.03 + 0.01) = 10; bias = 4 + (1 - 3) * 10."""
    layer = fold(
        name="conv",
        codes=np.array([[3, -5], [7, 1]]),
        grid=QuantGrid(bits=8, signed=True, narrow=True),
        weight_scale=0.5,
        input_scale=0.25,
        bias=np.array([1.0, 1.0]),
        batchnorm=BatchNormParams(
            gamma=np.array([2.0, -2.0]),
            beta=np.array([4.0, 4.0]),
            mean=np.array([3.0, 3.0]),
            var=np.array([0.03, 0.03]),
            eps=0.01,
        ),
    )
    np.testing.assert_array_equal(layer.codes, [[3, -5], [-7, -1]])
    np.testing.assert_allclose(layer.scale, 5.0, rtol=1e-6)
    np.testing.assert_allclose(layer.bias, [-16.0, 24.0], rtol=1e-12)
    np.testing.assert_array_equal(layer.bias_codes, [-13, 19])  # in steps of 0.25 * 5
    np.testing.assert_allclose(layer.rounded_bias, [-16.25, 23.75], rtol=1e-6)


@given(bits=st.integers(2, 8), seed=st.integers(0, 10_000))
def test_the_bias_is_off_by_at_most_half_of_its_step(bits: int, seed: int) -> None:
    layer = folded(bits, seed)
    error = np.abs(layer.bias_codes * layer.bias_scale.astype(np.float64) - layer.bias)
    assert (error <= layer.bias_scale / 2 * (1 + 1e-6)).all()


def test_at_four_bits_the_bias_is_eight_times_finer_than_its_grid_would_give() -> None:
    layer = folded(4, 0, gamma=1.0)
    grid_step = np.float32(0.1) * layer.scale * layer.step
    np.testing.assert_allclose(layer.bias_scale, grid_step / 8, rtol=1e-6)


def test_a_channel_with_gamma_zero_gives_its_beta() -> None:
    layer = folded(4, 1, gamma=0.0)
    assert not layer.codes.any()
    assert (layer.scale > 0).all()
    np.testing.assert_allclose(layer.bias_codes * layer.bias_scale, layer.bias, atol=layer.bias_scale.max())


def test_a_bias_beyond_int32_at_the_layers_scale_makes_the_scale_coarser() -> None:
    """Half a step of each of 27 weights, times inputs up to 255: 2^-18 of the bias."""
    layer, plain = folded(8, 0, gamma=1.0, bias=1e9, input_scale=1e-4), folded(8, 0, gamma=1.0, input_scale=1e-4)
    assert np.abs(layer.bias_codes.astype(np.int64)).max() <= 2**30
    np.testing.assert_allclose(layer.bias_codes * layer.bias_scale.astype(np.float64), layer.bias, rtol=1e-6)
    off = (layer.codes * layer.scale[:, None, None, None] - plain.codes * plain.scale[:, None, None, None]) * 1e-4
    assert (np.abs(off).sum((1, 2, 3)) * 255 < 2.0**-18 * np.abs(layer.bias)).all()


@pytest.mark.parametrize("gamma", [1e-6, 1e-9, -1e-12, 1e-30, 1e-200])
def test_a_channel_next_to_nothing_keeps_its_bias_and_stays_within_int32(gamma: float) -> None:
    """Pretrained networks have such channels: their weights vanish, their beta does not."""
    layer = folded(4, 0, gamma=gamma, input_scale=0.01)
    reach = np.abs(layer.codes.astype(np.int64)).sum(axis=(1, 2, 3)) * 255 + np.abs(layer.bias_codes.astype(np.int64))
    assert (reach < 2**31).all()
    assert (layer.scale > 0).all()
    np.testing.assert_allclose(layer.bias_codes * layer.bias_scale.astype(np.float64), layer.bias, rtol=1e-6)


def test_a_channel_that_is_only_small_keeps_its_codes() -> None:
    small, plain = folded(4, 0, gamma=1e-4), folded(4, 0, gamma=1.0)
    np.testing.assert_array_equal(small.codes, plain.codes)


def test_codes_outside_the_grid_are_refused() -> None:
    with pytest.raises(ModelError, match="its 3-bit grid holds -4 to 3"):
        fold(
            name="fc",
            codes=np.array([[5]]),
            grid=QuantGrid(bits=3, signed=True),
            weight_scale=0.1,
            input_scale=0.1,
            bias=None,
            batchnorm=None,
        )


def powers(exponents: list[int]) -> IntegerLayer:
    """A layer of 4-bit weights whose folded scales were chosen; gammas of both signs."""
    rng = np.random.default_rng(0)
    channels = len(exponents)
    norm = BatchNormParams(
        gamma=rng.choice([-1.0, 1.0], channels),
        beta=rng.normal(size=channels),
        mean=rng.normal(size=channels),
        var=rng.random(channels) + 0.1,
        eps=1e-5,
    )
    return fold(
        name="conv",
        codes=rng.integers(-7, 8, (channels, 6, 3, 3)),
        grid=QuantGrid(bits=4, signed=True),
        weight_scale=0.07,
        input_scale=2.0**-5,
        bias=None,
        batchnorm=norm,
        powers=2.0 ** np.array(exponents, np.float64),
        input_grid=QuantGrid(bits=8, signed=False),
    )


@given(exponents=st.lists(st.integers(-40, 20), min_size=1, max_size=6))
def test_powers_of_two_stay_powers_of_two_and_biases_are_floats_exactly(exponents: list[int]) -> None:
    layer = powers(exponents)
    assert layer.pow2
    assert (np.abs(layer.bias_codes) <= 2**22).all()
    exact = layer.bias_codes.astype(np.float64) * layer.bias_scale
    np.testing.assert_array_equal(layer.float_bias.astype(np.float64), exact)
    assert layer.largest_sum(QuantGrid(bits=8, signed=False)) < 2**24


def test_a_free_scale_is_no_power_of_two_and_its_float_bias_is_not_rounded() -> None:
    layer = folded(4, 0)
    assert not layer.pow2
    np.testing.assert_array_equal(layer.float_bias, layer.bias.astype(np.float32))


@pytest.mark.parametrize(("inputs", "step"), [(16, 8), (1024, 4), (65536, 1)])
def test_weights_are_written_as_wide_as_leaves_sums_exact_in_float32(inputs: int, step: int) -> None:
    """4-bit codes of 7 times inputs up to 255: 16 of them sum to 28,560, 1024 to 1.8 million, 65,536 to 117 million."""
    layer = fold(
        name="fc",
        codes=np.full((1, inputs), 7),
        grid=QuantGrid(bits=4, signed=True),
        weight_scale=0.5,
        input_scale=0.25,
        bias=np.array([0.3]),
        batchnorm=None,
        powers=np.array([0.5]),
        input_grid=QuantGrid(bits=8, signed=False),
    )
    assert layer.step == step
    assert float(layer.codes[0, 0]) * layer.scale[0] == 3.5
    largest = layer.largest_sum(QuantGrid(bits=8, signed=False))
    assert largest == 7 * 255 * inputs * layer.step + abs(int(layer.bias_codes[0]))
    assert (largest < 2**24) == (inputs < 65536)


@pytest.mark.parametrize(
    ("codes", "signed", "largest"),
    [
        ([-7, -7, 3], False, 14 * 255),  # the sum of the negative ones is the larger
        ([7, -7, 3], False, 10 * 255),
        ([-7, 5, 3], True, 7 * 127 + 8 * 128),  # the sum that is furthest below zero
    ],
)
def test_the_largest_sum_is_that_of_the_products_of_one_sign(codes: list[int], signed: bool, largest: int) -> None:
    layer = fold(
        name="fc",
        codes=np.array([codes]),
        grid=QuantGrid(bits=8, signed=True, narrow=True),
        weight_scale=1.0,
        input_scale=1.0,
        bias=np.array([-9.0]),
        batchnorm=None,
    )
    assert layer.largest_sum(QuantGrid(bits=8, signed=signed)) == largest + 9


@pytest.mark.parametrize("scale", [0.0, -0.5, float("nan"), float("inf")])
def test_a_folded_scale_that_is_no_scale_is_refused_by_name(scale: float) -> None:
    with pytest.raises(ModelError, match=r"layer 'fc' has a folded weight scale of .*; a scale must be positive"):
        fold(
            name="fc",
            codes=np.ones((2, 3), np.int64),
            grid=QuantGrid(bits=4, signed=True),
            weight_scale=0.5,
            input_scale=0.25,
            bias=None,
            batchnorm=None,
            powers=np.array([0.5, scale]),
            input_grid=QuantGrid(bits=8, signed=False),
        )


@pytest.mark.parametrize("powers", [None, np.full(64, 2.0**-5)])
def test_folding_takes_few_bytes_a_weight_beside_its_codes(powers: NDArray[np.float64] | None) -> None:
    """Float32 products and the int8 codes that stay; a Linear of 100 million weights is folded at once."""
    codes = np.random.default_rng(0).integers(-8, 8, (64, 16384)).astype(np.float32)
    grid, read = QuantGrid(bits=4, signed=True), QuantGrid(bits=8, signed=False)
    tracemalloc.start()
    layer = fold(
        name="fc",
        codes=codes,
        grid=grid,
        weight_scale=0.07,
        input_scale=0.1,
        bias=None,
        batchnorm=None,
        powers=powers,
        input_grid=read,
    )
    layer.largest_sum(read)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * codes.size


def test_codes_that_are_no_numbers_are_refused() -> None:
    codes = np.array([[1.0, np.nan]], np.float32)
    with pytest.raises(ModelError, match="nan"):
        fold(
            name="fc",
            codes=codes,
            grid=QuantGrid(bits=8, signed=True),
            weight_scale=0.1,
            input_scale=0.1,
            bias=None,
            batchnorm=None,
        )
