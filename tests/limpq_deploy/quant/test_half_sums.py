"""Sums rounded to float16, against NumPy's integers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.graph.half_sums import sum_step
from limpq_deploy.export.records.targets import TENSORRT, TENSORRT_RTX
from limpq_deploy.quant.folded_forward import exported_layer
from limpq_deploy.quant.half_sums import HalfSums
from limpq_deploy.quant.modules import application


def layer_of(codes: np.ndarray, random: np.random.Generator) -> IntegerLayer:
    channels = len(codes)
    return IntegerLayer(
        name="layer",
        bits=8,
        step=1,
        codes=codes,
        scale=np.full(channels, 0.25, np.float32),
        bias_codes=np.zeros(channels, np.int32),
        bias_scale=random.uniform(1e-3, 1e-2, channels).astype(np.float32),
        bias=random.normal(size=channels),
    )


@pytest.mark.parametrize("shape", [(6, 64, 3, 3), (6, 500)])
def test_a_product_is_rounded_once_to_eleven_bits_and_scaled_behind(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    layer = layer_of(random.integers(-127, 128, shape).astype(np.int8), random)
    given = random.integers(-128, 128, (2, 64, 5, 5) if len(shape) == 4 else (2, 7, 500))  # an image, or tokens
    module = nn.Conv2d(64, 6, 3) if len(shape) == 4 else nn.Linear(500, 6)
    apply = F.conv2d if len(shape) == 4 else F.linear
    sums = apply(torch.from_numpy(given.astype(np.float64)), torch.from_numpy(layer.codes.astype(np.float64))).numpy()
    column = (-1, 1, 1) if len(shape) == 4 else (-1,)
    unit, bias = layer.bias_scale.reshape(column), layer.float_bias.reshape(column)
    step = sum_step(layer)
    rounded = (sums * step).astype(np.float16)
    assert np.isfinite(rounded).all()
    assert (rounded.astype(np.float64) != sums * step).any()
    expected = rounded.astype(np.float32) * (unit / np.float32(step)) + bias
    read = QuantParams(grid=QuantGrid(bits=8, signed=True), scale=(0.3,))
    found = exported_layer(application(module), layer, TENSORRT_RTX, read)
    assert isinstance(found, HalfSums)
    reals = torch.from_numpy(given.astype(np.float32)) * 0.3
    np.testing.assert_array_equal(found(reals).numpy(), expected)
    assert not isinstance(exported_layer(application(module), layer, TENSORRT, read), HalfSums)


def test_the_step_lets_no_sum_pass_what_float16_holds() -> None:
    random = np.random.default_rng(1)
    for size in (1, 9, 4608):
        layer = layer_of(np.full((2, size), -128, np.int8), random)
        assert 2.0**14 < size * 128 * 128 * sum_step(layer) <= 2.0**15 or sum_step(layer) == 1
