import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.export.graph.float_layers import FLOAT_LAYERS, fold_float, fold_weight_only, planned_float
from limpq_deploy.export.graph.folding import BatchNormParams


def norm(random: np.random.Generator, channels: int) -> BatchNormParams:
    return BatchNormParams(
        gamma=random.uniform(0.5, 1.5, channels) * random.choice([-1.0, 0.0, 1.0], channels),
        beta=random.normal(size=channels),
        mean=random.normal(size=channels),
        var=random.uniform(0.5, 1.5, channels),
        eps=0.1,  # large enough to be seen
    )


def behind(norm: BatchNormParams, z: np.ndarray) -> np.ndarray:
    return norm.gamma * (z - norm.mean) / np.sqrt(norm.var + norm.eps) + norm.beta


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), bits=st.integers(2, 8))
def test_folded_layers_give_what_layer_and_batchnorm_give(seed: int, bits: int) -> None:
    random = np.random.default_rng(seed)
    statistics, x = norm(random, 6), random.normal(size=(9, 5))
    weight, bias = random.normal(size=(6, 5)), random.normal(size=6)
    plain = fold_float(name="a", bits=32, weight=weight, bias=bias, batchnorm=statistics)
    np.testing.assert_allclose(x @ plain.weight.T + plain.bias, behind(statistics, x @ weight.T + bias), atol=1e-5)
    grid = QuantGrid(bits=bits, signed=True, narrow=bits == 8)
    codes = random.integers(grid.qmin, grid.qmax + 1, (6, 5))
    stored = fold_weight_only(
        name="a", bits=32, codes=codes, grid=grid, weight_scale=0.03, bias=None, batchnorm=statistics
    )
    assert stored.codes is not None
    assert stored.scale is not None
    assert (stored.codes.dtype, stored.weight_bits) == (np.int8, bits)
    assert (stored.scale > 0).all()
    np.testing.assert_array_equal(stored.weight, stored.codes.astype(np.float32) * stored.scale[:, None])
    expected = behind(statistics, x @ (0.03 * codes).T)
    np.testing.assert_allclose(x @ stored.weight.T + stored.bias, expected, atol=1e-5)


def test_numbers_that_are_not_finite_are_refused_with_the_layer_named() -> None:
    weight = np.ones((2, 3))
    weight[1, 1] = np.nan
    with pytest.raises(ModelError, match="layer 'conv7' has a weight, scale or bias that is not finite"):
        fold_float(name="conv7", bits=32, weight=weight, bias=None, batchnorm=None)
    grid = QuantGrid(bits=4, signed=True)
    with pytest.raises(ModelError, match="layer 'conv7' has a weight scale of 0"):
        fold_weight_only(
            name="conv7",
            bits=16,
            codes=np.ones((2, 3), np.int64),
            grid=grid,
            weight_scale=1e-60,
            bias=None,
            batchnorm=None,
        )


def test_a_file_names_its_float_layers_in_its_metadata() -> None:
    model = onnx.ModelProto()
    assert planned_float(model) == ()
    onnx.helper.set_model_props(model, {FLOAT_LAYERS: json.dumps(["a", "b.conv"])})
    assert planned_float(model) == ("a", "b.conv")
    for damaged in ("[", "{}", "[1]"):
        onnx.helper.set_model_props(model, {FLOAT_LAYERS: damaged})
        with pytest.raises(ModelError, match="damaged metadata"):
            planned_float(model)
