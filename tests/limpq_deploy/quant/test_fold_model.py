import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.float_layers import FloatLayer
from limpq_deploy.export.graph.folding import IntegerLayer
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import TENSORRT
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.model.place import place
from limpq_deploy.quant.fold_model import beyond_float32, input_quantizer, integer_model
from limpq_deploy.quant.folded_forward import as_recorded
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy

Tiny = tuple[TracedModel, Placement]
POLICY = {"conv2": (4, 3), "conv3": (3, 4), "shortcut": (8, 3)}


@pytest.fixture
def model(tiny: Tiny) -> QuantizedModel:
    """Scales from data; BatchNorms with gammas of both signs."""
    model = model_of_policy(*tiny, POLICY)
    model.initialise_scales(torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in model.placement.layers:
            if layer.batchnorm is not None:
                norm = model.batchnorm(layer.batchnorm)
                norm.eps = 0.1  # large enough to be seen
                norm.weight.copy_(torch.randn(norm.weight.shape, generator=generator))
                norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) + 0.5)
                norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator))
    model.set_bits(POLICY)
    return model.eval()


def test_a_model_that_computes_as_exported_holds_no_integers_beside_its_weights(model: QuantizedModel) -> None:
    def integers() -> list[IntegerLayer]:
        gc.collect()
        return [one for one in gc.get_objects() if type(one) is IntegerLayer]

    before = len(integers())
    with as_recorded(model, POLICY):
        assert model.quant_layer("conv2").exported is not None
        assert len(integers()) == before
    assert model.quant_layer("conv2").exported is None


@pytest.mark.parametrize("name", ["conv1", "conv2", "shortcut", "linear"])
def test_integers_give_what_the_trained_layer_and_its_batchnorm_give(model: QuantizedModel, name: str) -> None:
    layers, acts = integer_model(model, POLICY)
    integers, placed = layers[name], model.placement.layer(name)
    assert isinstance(integers, IntegerLayer)
    act = acts[input_quantizer(model.placement, placed.input, acts)]
    shape = (4, 8) if placed.kind == "linear" else (4, model.quant_layer(name).weight.shape[1], 5, 5)
    codes = torch.randint(act.grid.qmin, act.grid.qmax + 1, shape, generator=torch.Generator().manual_seed(2))

    double = model.double()
    layer = double.quant_layer(name)
    trained = layer(codes.double() * act.scale[0])
    if placed.batchnorm is not None:
        trained = double.batchnorm(placed.batchnorm)(trained)

    weight = (
        torch.from_numpy(integers.codes.astype(np.float64))
        * torch.from_numpy(integers.scale.astype(np.float64))[(slice(None),) + (None,) * (integers.codes.ndim - 1)]
    )
    bias = torch.from_numpy(integers.bias_codes * integers.bias_scale.astype(np.float64))
    executed = layer.apply_weight(codes.double() * act.scale[0], weight, bias)

    # The bias is rounded to half a step of its int32 grid; scales are float32.
    tolerance = 0.5 * float(integers.bias_scale.max()) + 1e-5 * float(trained.detach().abs().max())
    assert (executed - trained).abs().max().item() <= tolerance
    assert trained.std() > 10 * tolerance


def test_a_negative_gamma_flips_codes_and_keeps_the_scale_positive(model: QuantizedModel) -> None:
    layers, _ = integer_model(model, POLICY)
    gamma = model.batchnorm("bn2").weight[0].detach().numpy()
    assert (gamma < 0).any()
    signs = np.sign(gamma).astype(np.int8)[:, None, None, None]
    layer = layers["conv2"]
    assert isinstance(layer, IntegerLayer)
    np.testing.assert_array_equal(layer.codes // layer.step * signs, model.quant_layer("conv2").codes().numpy())
    assert (layer.scale > 0).all()


def test_a_scale_that_is_not_finite_is_refused_by_name(model: QuantizedModel) -> None:
    with torch.no_grad():
        model.act_quantizer("relu_1").scales.log_scale.fill_(torch.nan)
    with pytest.raises(ModelError, match="activation quantizer 'relu_1' has a scale of nan"):
        integer_model(model, POLICY)


def test_integer_weights_before_float_activations_are_those_of_the_layer_with_powers_of_two(tiny: Tiny) -> None:
    traced, _ = tiny
    placement = place(traced, TENSORRT, model="tiny")
    policy = {layer.name: (4, 16) for layer in placement.searched}
    model = model_of_policy(traced, placement, policy, scales="pow2")
    model.initialise_scales(torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    model.set_bits(policy)
    layers, _ = integer_model(model.eval(), policy)
    stored, layer, norm = layers["conv2"], model.quant_layer("conv2"), model.batchnorm("bn2")
    assert isinstance(stored, FloatLayer)
    assert stored.scale is not None
    assert (np.frexp(stored.scale)[0] == 0.5).all()
    real = layer.codes() * layer.step(0)[:, None, None, None] * norm.fold_factor()[:, None, None, None]
    np.testing.assert_allclose(stored.weight, real.detach().numpy(), rtol=1e-6)


def test_sums_beyond_2_to_the_24_are_beyond_float32(model: QuantizedModel) -> None:
    layers, acts = integer_model(model, POLICY)
    layer = layers["conv2"]
    assert isinstance(layer, IntegerLayer)
    still = replace(layer, codes=np.zeros_like(layer.codes), bias_codes=np.full_like(layer.bias_codes, 2**24))
    beyond = replace(still, bias_codes=-still.bias_codes - 1)
    assert beyond_float32(model.placement, {**layers, "conv2": still}, acts) == {}
    assert beyond_float32(model.placement, {**layers, "conv2": beyond}, acts) == {"conv2": 2**24 + 1}
