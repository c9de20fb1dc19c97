"""4-bit weights with a scale for each block of a row, beside float activations: chosen, exported, executed, counted."""

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.export.graph.float_layers import FloatLayer
from limpq_deploy.export.qdq.base import Layers
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import TENSORRT, TENSORRT_RTX
from limpq_deploy.export.reference.half_sums import codes_in_numpy
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.policy.costs import WeightSize, total_cost, uniform_pairs
from limpq_deploy.quant.fold_model import integer_model
from limpq_deploy.quant.folded_forward import as_recorded
from limpq_deploy.quant.modules import QuantLayer
from limpq_deploy.quant.quantized_model import QuantizedModel, inherit, joint_model, model_of_policy
from limpq_deploy.train.joint import read_indicators

pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.lint.check import lint
from limpq_deploy.export.qdq.build import build_qdq
from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written
from limpq_deploy.export.timing.timing_graph import timing_graph

GRID = QuantGrid(bits=4, signed=True)
LAYERS = ("conv", "up", "normed", "small", "down")


class Net(nn.Module):
    """A convolution, tokens, and linear layers: of 64 and 128 inputs, of 24, and one before a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 4, 4)
        self.conv = nn.Conv2d(16, 64, 1)
        self.up = nn.Linear(64, 128)
        self.down = nn.Linear(128, 24)
        self.small = nn.Linear(24, 64)
        self.normed = nn.Linear(64, 16)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.relu(self.conv(torch.relu(self.stem(x)))).flatten(2).transpose(1, 2)
        x = torch.relu(self.small(torch.relu(self.down(torch.relu(self.up(tokens))))).mean(1))
        return self.head(torch.relu(self.norm(self.normed(x))))


@dataclass
class Made:
    traced: TracedModel
    placement: Placement
    model: QuantizedModel
    layers: Layers
    template: onnx.ModelProto
    file: onnx.ModelProto

    def fixed(self, name: str) -> np.ndarray:
        return next(numpy_helper.to_array(one) for one in self.file.graph.initializer if one.name == name)


@pytest.fixture(scope="module")
def made() -> Made:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net().eval()
        images = torch.randn(8, 1, 12, 12)
    with torch.no_grad():
        net.up.weight[:, :32] *= 20  # blocks of very different sizes
        net.down.weight[3, 64:] = 0
        net.norm.weight.copy_(torch.tensor([1.0, -1.0] * 8))
    traced = trace(net, (1, 12, 12))
    placement = place(traced, TENSORRT_RTX, model="net", act_bits=16)
    policy = dict.fromkeys(LAYERS, (4, 16))
    model = model_of_policy(traced, placement, policy)
    model.initialise_scales(images)
    model.set_bits(policy)
    layers, acts = integer_model(model.eval(), policy)
    template = float_template(traced, placement)
    return Made(traced, placement, model, layers, template, build_qdq(template, placement, layers, acts, {}))


def test_linear_layers_that_read_floats_have_blocks_of_which_a_row_has_two_or_more(made: Made) -> None:
    blocks = {layer.name: layer.block for layer in made.placement.layers if layer.block is not None}
    assert blocks == {"up": 32, "down": 64}  # 24 has none, "normed" a BatchNorm, the head is pinned
    with_codes = place(made.traced, TENSORRT_RTX, model="net")
    elsewhere = place(made.traced, TENSORRT, model="net", act_bits=16)
    assert all(layer.block is None for one in (with_codes, elsewhere) for layer in one.layers)


def test_each_block_has_the_scale_of_least_squared_error(made: Made) -> None:
    layer = made.model.quant_layer("up")
    steps = layer.block_steps()
    assert steps is not None
    assert steps.shape == (128, 2)
    assert (steps[:, 0] > 4 * steps[:, 1]).all()
    rows = layer.weight.detach().reshape(-1, 32).double()

    def error(step: torch.Tensor) -> torch.Tensor:
        codes = (rows / step[:, None]).round().clamp(GRID.qmin, GRID.qmax)
        return (rows - codes * step[:, None]).square().sum(1)

    found, widest = error(steps.flatten().double()), rows.abs().amax(1) / 7
    for part in np.linspace(0.3, 1, 15):
        assert found.sum() <= error(widest * part).sum()  # no one part of the widest suits all blocks as well
    assert (found <= error(widest) * (1 + 1e-5)).all()  # float32
    common = error(rows.abs().max().expand(len(rows)) / 7)
    assert found[1::2].sum() < 0.1 * common[1::2].sum()  # small blocks keep what one scale for all would lose
    expected = (rows / steps.flatten()[:, None].double()).float().round().clamp(GRID.qmin, GRID.qmax)
    assert torch.equal(layer.codes().reshape(-1, 32), expected)


def test_the_file_has_int4_codes_with_a_scale_a_block_and_other_layers_a_scale_a_channel(made: Made) -> None:
    nodes = {node.name: node for node in made.file.graph.node}
    found = {
        name: {one.name: one.i for one in nodes[f"{name}.weight_dequantized"].attribute}
        for name in ("conv", "up", "down", "small", "normed", "head")
    }
    assert found["up"] == {"axis": 1, "block_size": 32}
    assert found["down"] == {"axis": 1, "block_size": 64}
    assert all(found[name] == {"axis": 0} for name in ("conv", "small", "normed", "head"))
    types = {one.name: one.data_type for one in made.file.graph.initializer}
    assert types["up.weight_codes"] == types["down.weight_codes"] == onnx.TensorProto.INT4
    assert types["small.weight_codes"] == types["head.weight_codes"] == onnx.TensorProto.INT8
    layer = made.layers["up"]
    assert isinstance(layer, FloatLayer)
    assert layer.codes is not None
    assert np.array_equal(made.fixed("up.weight_codes").astype(np.int8), layer.codes)
    assert made.fixed("up.weight_scale").dtype == np.float16
    scales = made.fixed("down.weight_scale")
    assert scales.dtype == np.float16  # a block of zeros takes none that FP16 cannot hold
    assert scales[3, 1] == np.float16(made.model.quant_layer("down").scales.scale(0).item())
    onnx.checker.check_model(made.file, full_check=True)


def test_a_stand_in_for_timing_has_the_nodes_types_and_shapes_of_the_file(made: Made) -> None:
    found = timing_graph(made.template, made.placement, dict.fromkeys(LAYERS, (4, 16)))
    assert _structure(found) == _structure(made.file)


def _structure(model: onnx.ModelProto) -> tuple[object, object]:
    nodes = [(node.name, node.op_type, [str(one) for one in node.attribute]) for node in model.graph.node]
    return nodes, {one.name: (one.data_type, tuple(one.dims)) for one in model.graph.initializer}


def test_onnx_runtime_numpy_and_the_trained_model_give_the_same_logits(made: Made) -> None:
    images = np.random.default_rng(0).standard_normal((4, 1, 12, 12), np.float32)
    written = open_as_written(made.file).run_feeds({"images": images})["logits"]
    exact = codes_in_numpy(made.file, images, ())["logits"]
    with torch.no_grad(), as_recorded(made.model.eval(), dict.fromkeys(LAYERS, (4, 16))):
        trained = made.model(torch.from_numpy(images)).numpy()
    span = np.ptp(trained)
    np.testing.assert_allclose(written, exact, atol=2e-3 * span)  # FP16 has 11 bits, rounded a few times
    np.testing.assert_allclose(written, trained, atol=5e-3 * span)
    with torch.no_grad():
        plain = made.model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(trained, plain, atol=1e-4 * span)  # what is trained is what is exported


def test_the_size_counts_the_scales_of_blocks(made: Made) -> None:
    joint = joint_model(made.traced, made.placement, (3, 4, 8))
    joint.initialise_scales(torch.randn(4, 1, 12, 12))
    found = read_indicators(joint, (3, 4, 8))
    bare = replace(found, layers=tuple(replace(one, block=None) for one in found.layers))
    sizes = {
        bits: [total_cost(WeightSize(), one, uniform_pairs(one, bits, 8)) for one in (found, bare)]
        for bits in (3, 4, 8)
    }
    scales = made.fixed("up.weight_scale").nbytes + made.fixed("down.weight_scale").nbytes
    assert sizes[4][0] - sizes[4][1] == sizes[3][0] - sizes[3][1] == 8 * scales
    assert sizes[8][0] == sizes[8][1]  # 8-bit weights have a scale a channel


def test_blocks_follow_what_a_joint_training_learned(made: Made) -> None:
    joint = joint_model(made.traced, made.placement, (4, 8))
    joint.initialise_scales(torch.randn(4, 1, 12, 12))
    with torch.no_grad():
        joint.quant_layer("up").weight.mul_(3)
    policy = dict.fromkeys(LAYERS, (4, 16))
    model = model_of_policy(made.traced, made.placement, policy)
    inherit(model, joint)
    mine, before = model.quant_layer("up").block_steps(), made.model.quant_layer("up").block_steps()
    assert mine is not None
    assert before is not None
    torch.testing.assert_close(mine, 3 * before)


def test_the_scale_of_blocks_learns_as_one(made: Made) -> None:
    layer = QuantLayer(nn.Linear(64, 4), (4,), (GRID,), block=32)
    layer.initialise([0.05])
    layer.active = 4
    layer(torch.randn(8, 64, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    gradient = layer.scales.log_scale.grad
    assert gradient is not None
    assert gradient.abs().item() > 0
    assert layer.weight.grad is not None
    assert layer.weight.grad.shape == (4, 64)


def test_lint_names_layers_whose_weights_are_dequantized_at_every_call(made: Made) -> None:
    found = lint(made.file, TENSORRT_RTX).findings
    assert {one.rule for one in found} == {"weights-at-every-call"}
    assert {one.node for one in found} == {"stem", "conv"}  # Gemms take int8 for each channel as it is


def test_nvidias_compiler_fuses_blocks_into_products_and_dequantizes_convolutions_first(made: Made) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")
    from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions
    from limpq_deploy.export.runtimes.tensorrt_rtx.build import compile_model
    from limpq_deploy.export.runtimes.tensorrt_rtx.inspect import parse_layers

    batch = BatchRange(least=1, best=8, most=8)
    compiled = compile_model(made.file, EngineOptions(batch=batch), ("sm89",), report=lambda done, total, note: None)
    kernels = parse_layers(compiled.result.layers)
    of_int4 = [one for one in kernels if "Int4" in {tensor["Datatype"] for tensor in one["Constants"]}]
    assert len(of_int4) == 2
    assert all("Fc" in one["Name"] and one["Inputs"] for one in of_int4)  # fully connected, of what it reads
    alone = [one for one in kernels if not one["Inputs"] and one["Constants"] and one["Outputs"]]
    made_first = [one for one in alone if len(one["Outputs"][0]["Dimensions"]) == 4]
    assert len(made_first) == 2  # weights of the two convolutions
