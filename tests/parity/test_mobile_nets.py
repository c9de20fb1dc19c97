"""Depthwise convolutions, ReLU6, self-gated activations, squeeze-and-excitation and concatenation, from torch to ONNX
Runtime: everything in integers, every code equal to the integer reference's, each layer faithful to the trained one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from torch import Tensor, nn  # noqa: E402

from limpq_deploy.calibration.numbers.params import QuantParams  # noqa: E402
from limpq_deploy.export.graph.folding import IntegerLayer  # noqa: E402
from limpq_deploy.export.graph.onnx_files import constants  # noqa: E402
from limpq_deploy.export.lint.check import LintReport, lint  # noqa: E402
from limpq_deploy.export.qdq.build import build_qdq  # noqa: E402
from limpq_deploy.export.records.placement import Placement  # noqa: E402
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT, TargetSpec  # noqa: E402
from limpq_deploy.export.reference.executor import IntegerReference  # noqa: E402
from limpq_deploy.export.reference.parity import ParityReport, compare_runtime  # noqa: E402
from limpq_deploy.export.runtimes import runtime_named  # noqa: E402
from limpq_deploy.model.float_template import float_template  # noqa: E402
from limpq_deploy.model.layers import TracedModel, trace  # noqa: E402
from limpq_deploy.model.place import place  # noqa: E402
from limpq_deploy.model.zoo import create_model  # noqa: E402
from limpq_deploy.quant.fold_model import integer_model  # noqa: E402
from limpq_deploy.quant.modules import SwitchableBatchNorm  # noqa: E402
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy  # noqa: E402
from limpq_deploy.quant.torch_parity import Fed, TrainedParity, compare_trained  # noqa: E402

SHAPE = (3, 16, 16)


def conv(channels_in: int, channels: int, kernel: int = 1, *, groups: int = 1, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels))


class Excitation(nn.Module):
    """Squeeze-and-excitation: a pool, two 1x1 convolutions, a gate, and a product with one number per channel."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.relu, self.fc2 = nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Conv2d(4, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.relu(self.fc1(self.pool(x)))))


class MobileNet(nn.Module):
    """A stem, an inverted residual with squeeze-and-excitation, a max pool before its activation, and a concatenation
    of an activated and a linear branch."""

    def __init__(self, activation: Callable[[], nn.Module], gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem, self.act0 = conv(3, 8, 3, stride=2), activation()
        self.expand, self.act1 = conv(8, 16), activation()
        self.depthwise, self.act2 = conv(16, 16, 3, groups=16), activation()
        self.excite = Excitation(16, gate())
        self.project = conv(16, 8)
        self.pool, self.act3 = nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU6()
        self.left, self.act4 = conv(8, 6), activation()
        self.right = conv(8, 6, 3)
        self.head, self.act5 = conv(12, 16), activation()
        self.linear = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act0(self.stem(x))
        y = self.excite(self.act2(self.depthwise(self.act1(self.expand(x)))))
        x = self.act3(self.pool(x + self.project(y)))
        x = torch.cat([self.act4(self.left(x)), self.right(x)], dim=1)
        return self.linear(self.act5(self.head(x)).mean((2, 3)))


NETS: dict[str, Callable[[], nn.Module]] = {
    "ReLU6": lambda: MobileNet(nn.ReLU6, nn.Sigmoid),
    "Hardswish": lambda: MobileNet(nn.Hardswish, nn.Hardsigmoid),
    "SiLU": lambda: MobileNet(nn.SiLU, nn.Sigmoid),
}


@dataclass(frozen=True)
class Quantized:
    """A net with scales from random images, and its integers. ``template``: the float graph with markers."""

    traced: TracedModel
    placement: Placement
    model: QuantizedModel
    layers: dict[str, IntegerLayer]
    acts: dict[str, QuantParams]
    template: onnx.ModelProto

    @property
    def file(self) -> onnx.ModelProto:
        return build_qdq(self.template, self.placement, self.layers, self.acts, {})


def quantized(
    model: nn.Module,
    target: TargetSpec = ONNXRUNTIME,
    *,
    shape: tuple[int, int, int] = SHAPE,
    pair: tuple[int, int] | None = None,
    stretched: float = 1.0,
) -> Quantized:
    """A net at random bits, or at one ``pair`` of them, activation scales ``stretched``."""
    random = np.random.default_rng(0)
    traced = trace(model.eval(), shape)
    placement = place(traced, target, model="mobile")
    act_bits = {layer.input: int(random.integers(2, 9)) for layer in placement.searched}
    policy = {layer.name: pair or (int(random.integers(3, 9)), act_bits[layer.input]) for layer in placement.searched}
    net = model_of_policy(traced, placement, policy)
    images = torch.from_numpy(random.normal(0, 1, (16, *shape)).astype(np.float32))
    net.set_float()
    for module in net.modules():
        if isinstance(module, SwitchableBatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(images)
    net.initialise_scales(images)
    with torch.no_grad():
        for quantizer in placement.quantizers:
            net.act_quantizer(quantizer.name).scales.log_scale.add_(float(np.log(stretched)))
    net.set_bits(policy)
    layers, acts = integer_model(net.eval(), policy)
    template = float_template(traced, placement)
    integers = {name: layer for name, layer in layers.items() if isinstance(layer, IntegerLayer)}
    return Quantized(traced, placement, net, integers, acts, template)


def batches(shape: tuple[int, int, int]) -> list[NDArray[np.float32]]:
    """Usual images, and some that saturate every grid."""
    random = np.random.default_rng(1)
    return [random.normal(0, spread, (8, *shape)).astype(np.float32) for spread in (1, 100)]


def compared(net: Quantized, path: Path) -> tuple[ParityReport, TrainedParity, LintReport]:
    """The exported file on the runtime, the integer reference and the trained model, compared."""
    onnx.save(net.file, path)
    images = batches(net.placement.input_shape)  # type: ignore[arg-type]
    report = compare_runtime(path, images, runtime_named("onnxruntime"), threads=1)
    reference = IntegerReference(path)
    fed = []
    for batch in images:
        logits, codes = reference.run(batch, keep=reference.code_tensors)
        fed.append(Fed(images_NCHW=batch, codes=codes, logits=logits))
    trained = compare_trained(net.traced, net.model, net.layers, net.acts, fed)
    return report, trained, lint(path, ONNXRUNTIME)


@pytest.mark.parametrize("name", NETS)
def test_a_mobile_net_runs_in_integers_and_equals_the_reference(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = quantized(NETS[name]())
    report, trained, linted = compared(net, tmp_path / "model.onnx")
    assert report.exact
    assert not report.unwatched
    assert linted.passed
    assert linted.float_compute == ()
    # a Hardsigmoid has no kernel on codes: it, and its Q and DQ, are the only float nodes
    assert bool(linted.float_nodes) == (name == "Hardswish")
    assert all("ardsigmoid" in node or "dequantized" in node for node in linted.float_nodes)
    steps = [entry.max_lsb for entry in trained.faithful]
    assert len(steps) >= len(net.placement.layers)
    assert max(steps) <= 1


def test_a_relu6_is_cut_on_codes_where_its_scale_reaches_beyond_6(tmp_path: Path) -> None:
    """Scales twice as large as they start, as training may make them: 8-bit codes then stop at round(6 / scale)."""
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    net = quantized(NETS["ReLU6"](), pair=(8, 8), stretched=2.0)
    report, trained, linted = compared(net, path)
    assert report.exact
    assert linted.float_nodes == ()
    assert max(entry.max_lsb for entry in trained.faithful) <= 1
    reference = IntegerReference(path)
    _, codes = reference.run(batches(SHAPE)[1], keep=reference.code_tensors)
    scales = constants(onnx.load(path).graph)
    cut = 0
    for quantizer in net.placement.quantizers:
        if quantizer.bound is not None and quantizer.parent is None:
            end = round(6 / float(scales[f"{quantizer.name}_scale"]))
            assert codes[f"{quantizer.name}_codes"].max() == min(end, 255)
            cut += end < 255
    assert cut >= 3


@pytest.mark.parametrize("name", ["ReLU6", "SiLU"])
def test_tensorrts_file_of_a_mobile_net_computes_what_was_trained(name: str, executed: Any) -> None:
    """Gates, products and concatenations stay in float there; the ReLU6 stays a Clip of floats."""
    torch.manual_seed(0)
    net = quantized(NETS[name](), TENSORRT)
    assert {reader for quantizer in net.placement.quantizers for reader in quantizer.layers} == set(net.layers)
    carriers = [quantizer for quantizer in net.placement.quantizers if not quantizer.layers]
    assert [carrier.tensor.partition("_")[0] for carrier in carriers] == ["act0"]
    assert lint(net.file, TENSORRT).passed
    images = batches(SHAPE)[0]
    logits, codes = executed(net.file, images)
    trained = compare_trained(net.traced, net.model, net.layers, net.acts, [Fed(images, codes, logits)])
    assert {part.tensor for part in trained.faithful} == {f"{quantizer}_codes" for quantizer in net.acts}
    assert max(part.max_lsb for part in trained.faithful) <= 1
    # float32 sums in another order differ by a few 1e-5 steps
    assert max(part.max_tie_distance or 0 for part in trained.faithful) <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v1",
        *(f"torchvision/{name}" for name in ("mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "googlenet")),
    ],
)
def test_whole_published_networks_run_in_integers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, _ = create_model(name)
    report, trained, linted = compared(quantized(model, shape=(3, 64, 64)), tmp_path / "model.onnx")
    assert report.exact
    assert not report.unwatched
    assert linted.float_compute == ()
    assert max(entry.max_lsb for entry in trained.faithful) <= 1
