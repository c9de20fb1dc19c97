"""Layers that a policy keeps in float: placed, calibrated, exported, executed and compared like all others."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.export.graph.float_layers import FLOAT_LAYERS, FloatLayer
from limpq_deploy.export.qdq.base import Layers
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT, TargetSpec
from limpq_deploy.export.records.targets.tensorrt import TENSORRT_FORMS
from limpq_deploy.export.reference.executor import IntegerReference
from limpq_deploy.export.reference.float_execution import on_runtime
from limpq_deploy.export.reference.parity import compare_runtime
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.quant.fold_model import integer_model
from limpq_deploy.quant.quantized_model import QuantizedModel, inherit, joint_model, model_of_policy
from limpq_deploy.quant.torch_parity import Fed, compare_trained
from limpq_deploy.train.finetune import tensor_quants
from limpq_deploy.train.joint import movements, read_indicators, uniform

pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.lint.check import lint
from limpq_deploy.export.qdq.build import build_qdq
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime, open_as_written

F, I = (32, 32), (8, 8)  # noqa: E741  float and integer


class Chain(nn.Module):
    """A stem, three convolutions in a row (the first ends in a ReLU6, a pool stands before the last), a sum, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.pool = nn.MaxPool2d(2)
        self.relu6 = nn.ReLU6()
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        y = self.pool(torch.relu(self.b(self.relu6(self.a(x)))))
        return self.head(torch.relu(self.c(y) + y).mean((2, 3)))


@dataclass
class Made:
    """A net at a policy, and the file that came of it."""

    traced: TracedModel
    placement: Placement
    model: QuantizedModel
    layers: Layers
    acts: dict[str, QuantParams]
    file: onnx.ModelProto

    def operators(self, *kinds: str) -> list[str]:
        return [node.op_type for node in self.file.graph.node if node.op_type in kinds]


@pytest.fixture(scope="module")
def make() -> Callable[..., Made]:
    """Make `Chain` at a policy of (a, b, c), for a target."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Chain().eval()
        with torch.no_grad():
            net.a.weight *= 6  # so that the ReLU6 cuts
            net.bn.weight.copy_(torch.tensor([1.0, -1.0] * 4))
        images = torch.randn(8, 1, 12, 12)
    templates: dict[str, tuple[TracedModel, Placement, onnx.ModelProto]] = {}

    def at(a: BitPair, b: BitPair, c: BitPair, target: TargetSpec = ONNXRUNTIME) -> Made:
        if target.name not in templates:
            traced = trace(net, (1, 12, 12))
            placement = place(traced, target, model="chain")
            templates[target.name] = traced, placement, float_template(traced, placement)
        traced, placement, template = templates[target.name]
        policy = {"a": a, "b": b, "c": c}
        model = model_of_policy(traced, placement, policy)
        model.initialise_scales(images)
        model.set_bits(policy)
        layers, acts = integer_model(model.eval(), policy)
        return Made(traced, placement, model, layers, acts, build_qdq(template, placement, layers, acts, {}))

    return at


def batches(count: int = 2) -> list[np.ndarray]:
    return [np.random.default_rng(seed).standard_normal((5, 1, 12, 12), np.float32) for seed in range(count)]


def saved(file: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(file, path)
    return path


POLICIES = {
    "one": (F, I, I),
    "behind a pool": (I, I, F),
    "two in a row": (F, F, I),
    "around one": (F, I, F),
    "all": (F, F, F),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_layers_kept_in_float_run_so_and_all_codes_and_logits_equal_the_reference(
    make: Callable[..., Made], policy: str, tmp_path: Path
) -> None:
    made = make(*POLICIES[policy])
    path, runtime = saved(made.file, tmp_path), OnnxRuntime()
    planned = {name for name, pair in zip("abc", POLICIES[policy], strict=True) if pair == F}
    expected = {name: "float32" if name in planned else "u8s8" for name in ("stem", "a", "b", "c", "head")}
    assert runtime.engine(path).layer_precision == expected
    found = compare_runtime(path, batches(), runtime)
    assert (found.mismatches, found.logits_equal, found.unwatched) == (0, True, {})
    looked = lint(path, ONNXRUNTIME)
    assert (looked.findings, looked.float_compute, set(looked.planned_float)) == ((), (), planned)


def test_between_two_float_layers_nothing_is_quantized_and_a_relu6_keeps_its_bound(make: Callable[..., Made]) -> None:
    made = make(F, F, I)
    assert made.model.act_quantizer(made.placement.layer("b").input).active is None
    assert made.placement.layer("b").input not in made.acts
    assert made.operators("Clip") == ["Clip"]
    clip = next(node for node in made.file.graph.node if node.op_type == "Clip")
    fixed = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.file.graph.initializer}
    assert [float(fixed[name]) for name in clip.input[1:]] == [0.0, 6.0]
    reached = made.traced.graph_module.get_submodule("a")(torch.relu(torch.randn(8, 8, 12, 12)))
    assert reached.max() > 6


def test_an_integer_layer_before_a_float_one_still_ends_in_codes(make: Callable[..., Made]) -> None:
    made = make(I, F, I)
    name = made.placement.layer("b").input
    assert made.acts[name].grid.bits == 8
    assert made.model.act_quantizer(name).active == 8


def test_onnxruntime_would_quantize_a_float_layer_by_itself_and_lint_says_so(
    make: Callable[..., Made], tmp_path: Path
) -> None:
    """Written with one scale, as for any other layer, the float weight is quantized behind the user's back."""
    file = make(I, F, I).file
    read = next(node for node in file.graph.node if node.output[0] == "b.input")
    for name in read.input[1:]:
        tensor = next(tensor for tensor in file.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).reshape(-1)[0], name))
    del read.attribute[:]
    path = saved(file, tmp_path)
    assert OnnxRuntime().engine(path).layer_precision["b"] == "u8s8"
    (finding,) = lint(path, ONNXRUNTIME).findings
    assert (finding.node, "quantizes its float weight" in finding.consequence) == ("b", True)


def test_a_float_layer_outside_the_plan_is_told(make: Callable[..., Made], tmp_path: Path) -> None:
    file = make(F, F, I).file
    assert json.loads(file.metadata_props[0].value) == ["a", "b"]
    file.metadata_props[0].value = json.dumps(["a"])
    looked = lint(saved(file, tmp_path), ONNXRUNTIME)
    assert {finding.node for finding in looked.findings} >= {"b"}
    assert len(looked.float_compute) == 1


def test_a_fault_in_a_float_layer_or_behind_it_is_found(make: Callable[..., Made], tmp_path: Path) -> None:
    file = make(F, I, I).file
    path = saved(file, tmp_path)
    for name in ("a.weight", "b.weight_codes"):
        changed = onnx.ModelProto()
        changed.CopyFrom(file)
        tensor = next(tensor for tensor in changed.graph.initializer if tensor.name == name)
        value = numpy_helper.to_array(tensor).copy()
        value.reshape(-1)[3] = value.max()
        tensor.CopyFrom(numpy_helper.from_array(value, name))
        other = tmp_path / "other.onnx"
        onnx.save(changed, other)
        assert compare_runtime(path, batches(1), OnnxRuntime(), reference_path=other).mismatches > 0


def test_the_reference_asks_for_someone_who_executes_floats(make: Callable[..., Made]) -> None:
    with pytest.raises(ModelError, match=r"node 'a' \(Conv\): by plan it computes in float"):
        IntegerReference(make(F, I, I).file)


@pytest.mark.parametrize("policy", ["two in a row", "around one"])
def test_the_trained_model_gives_the_exported_codes_layer_by_layer(
    make: Callable[..., Made], policy: str, tmp_path: Path
) -> None:
    made = make(*POLICIES[policy])
    runtime, path = OnnxRuntime(), saved(made.file, tmp_path)
    reference, session = IntegerReference(path, floats=on_runtime(runtime)), runtime.load(path)
    fed = []
    for images in batches():
        _, codes = reference.run(images, keep=reference.code_tensors)
        fed.append(Fed(images, codes, session.run(images)))
    found = compare_trained(made.traced, made.model, made.layers, made.acts, fed)
    assert {part.tensor for part in found.faithful} == {f"{name}_codes" for name in made.acts}
    assert all(part.max_lsb <= 1 and (part.max_tie_distance or 0) <= 1e-3 for part in found.faithful)
    assert found.agreement == 1.0


@pytest.mark.parametrize("pair", [(16, 16), F])
def test_tensorrts_file_for_weak_typing_has_plain_float_layers(make: Callable[..., Made], pair: BitPair) -> None:
    made = make(pair, pair, I, TENSORRT)
    fixed = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.file.graph.initializer}
    nodes = {node.name: node for node in made.file.graph.node}
    assert nodes["a"].input[1] == "a.weight"
    assert fixed["a.weight"].dtype == np.float32
    makers = {output: node.op_type for node in made.file.graph.node for output in node.output}
    assert [makers[nodes[name].input[0]] for name in "abc"] == ["Relu", "Clip", "DequantizeLinear"]
    assert lint(made.file, TENSORRT).findings == ()
    onnx.checker.check_model(made.file, full_check=True)


def test_scales_are_recorded_and_inherited_for_what_is_quantized_only(make: Callable[..., Made]) -> None:
    made = make(F, I, F)
    weights, acts = tensor_quants(made.model, {"a": F, "b": I, "c": F})
    assert {one.tensor for one in weights} == {"stem", "b", "head"}
    assert {one.tensor for one in acts} == made.acts.keys()
    joint = joint_model(made.traced, made.placement, (3, 4))
    joint.initialise_scales(torch.randn(4, 1, 12, 12))
    model = model_of_policy(made.traced, made.placement, {"a": F, "b": (4, 32), "c": F})
    inherit(model, joint)
    name = made.placement.layer("a").input
    kept, wide = model.act_quantizer(name).scales, joint.act_quantizer(name).scales
    assert kept.values()[0] * kept.grids[0].qmax == pytest.approx(wide.values()[-1] * wide.grids[-1].qmax)


def test_a_preview_runs_float_layers_in_float(make: Callable[..., Made]) -> None:
    made = make(I, I, I)
    joint = joint_model(made.traced, made.placement, (8,)).eval()
    images = torch.randn(4, 1, 12, 12)
    joint.initialise_scales(images)
    joint.set_bits({"a": F, "b": F, "c": F})
    assert joint.quant_layer("a").active is None
    assert joint.act_quantizer(made.placement.layer("b").input).active is None
    assert joint.act_quantizer(made.placement.layer("a").input).active == 8  # the stem ends in codes
    assert torch.isfinite(joint(images)).all()


def test_the_file_says_which_layers_are_float_and_only_then(make: Callable[..., Made]) -> None:
    assert FLOAT_LAYERS not in {entry.key for entry in make(I, I, I).file.metadata_props}
    layers = make(F, I, I).layers
    assert [name for name, layer in layers.items() if isinstance(layer, FloatLayer)] == ["a"]


WEIGHTS = {"a": (4, 32), "b": (3, 32), "c": (8, 32)}


@pytest.fixture(scope="module")
def bare() -> tuple[TracedModel, Placement]:
    """`Chain` placed with float activations."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Chain().eval()
    traced = trace(net, (1, 12, 12))
    return traced, place(traced, ONNXRUNTIME, model="chain", act_bits=32)


def test_with_float_activations_the_file_computes_what_was_trained_and_quantizes_nothing(
    bare: tuple[TracedModel, Placement], tmp_path: Path
) -> None:
    traced, placement = bare
    model = model_of_policy(traced, placement, WEIGHTS)
    model.initialise_scales(torch.randn(8, 1, 12, 12))
    model.set_bits(WEIGHTS)
    layers, acts = integer_model(model.eval(), WEIGHTS)
    assert acts == {}
    assert {name: layer.weight_bits for name, layer in layers.items() if isinstance(layer, FloatLayer)} == {
        "stem": 8,
        "a": 4,
        "b": 3,
        "c": 8,
        "head": 8,
    }
    file = build_qdq(float_template(traced, placement, 21), placement, layers, acts, {})
    assert "QuantizeLinear" not in {node.op_type for node in file.graph.node}
    path = saved(file, tmp_path)
    looked = lint(path, ONNXRUNTIME)
    assert (looked.findings, looked.float_compute, len(looked.planned_float)) == ((), (), 5)
    for images in batches():
        with torch.no_grad():
            trained = model(torch.from_numpy(images)).numpy()
        # float32 sums of 72 products in another order, and BatchNorm folded
        np.testing.assert_allclose(OnnxRuntime().load(path).run(images), trained, atol=1e-5)


def test_with_float_activations_joint_training_learns_scales_of_weights_alone(
    bare: tuple[TracedModel, Placement],
) -> None:
    traced, placement = bare
    joint = joint_model(traced, placement, (2, 4))
    joint.initialise_scales(torch.randn(4, 1, 12, 12))
    joint.set_bits(uniform(placement, 2))
    joint(torch.randn(4, 1, 12, 12)).square().sum().backward()
    learned = [name for name, parameter in joint.named_parameters() if "scale" in name and parameter.grad is not None]
    assert len(learned) == 5
    assert not [name for name in learned if "quantizers" in name]
    indicators = read_indicators(joint, (2, 4))
    assert all(layer.act == (0.0, 0.0) and min(layer.weight) > 0 for layer in indicators.layers)
    assert {layer.act_bits for layer in indicators.pinned} == {32}
    assert max(movements(indicators)) < 1e-6  # nothing moved; scales are kept as logarithms


class TwoLinear(nn.Module):
    """A convolution, and two linear layers of which the first is searched."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.hidden = nn.Linear(8, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.hidden(torch.relu(self.stem(x)).mean((2, 3)))))


@pytest.mark.parametrize("version", ["8.6", "10"])
def test_a_linear_layer_of_4_bit_weights_and_16_bit_activations_keeps_its_integer_weights_for_tensorrt(
    version: str,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        traced = trace(TwoLinear().eval(), (1, 6, 6))
    placement = place(traced, TENSORRT, model="two")
    policy = {"hidden": (4, 16)}
    assert TENSORRT.holds(4, 16, linear=True)
    assert not TENSORRT.holds(4, 16, linear=False)
    model = model_of_policy(traced, placement, policy)
    model.initialise_scales(torch.randn(8, 1, 6, 6))
    model.set_bits(policy)
    layers, acts = integer_model(model.eval(), policy)
    form = TENSORRT_FORMS[version]
    file = build_qdq(float_template(traced, placement, form.opset), placement, layers, acts, {}, form)
    assert lint(file, TENSORRT).findings == ()
    fixed = {tensor.name: numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    assert fixed["hidden.weight_scale"].dtype == (np.float16 if form.typed else np.float32)
    if form.weights == "int8":
        assert set(np.unique(fixed["hidden.weight_codes"])) <= set(range(-8, 9))
    images = np.random.default_rng(0).standard_normal((4, 1, 6, 6), np.float32)
    with torch.no_grad():
        trained = model(torch.from_numpy(images)).numpy()
    found = open_as_written(file).run_feeds({"images": images})["logits"]
    # one step of the head's 8-bit input at a tie, and FP16 in the island
    np.testing.assert_allclose(found, trained, atol=0.02 * np.ptp(trained))
