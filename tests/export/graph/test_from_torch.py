"""From a torch module to the float template: markers, biases, pools, opsets, and the float model that is left."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from torch import Tensor, fx, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from limpq_deploy.calibration.errors import ModelError  # noqa: E402
from limpq_deploy.export.graph.from_torch import (  # noqa: E402
    export_template,
    flatten_outputs,
)
from limpq_deploy.export.graph.markers import is_marker, marker_name  # noqa: E402
from limpq_deploy.export.graph.onnx_files import constants  # noqa: E402
from limpq_deploy.export.qdq.build import strip_markers  # noqa: E402
from limpq_deploy.export.records.placement import Placement  # noqa: E402
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT, TargetSpec  # noqa: E402
from limpq_deploy.model.float_template import float_template  # noqa: E402
from limpq_deploy.model.layers import trace  # noqa: E402
from limpq_deploy.model.place import place  # noqa: E402

POOLS: dict[str, Callable[[Any], Any]] = {
    "AdaptiveAvgPool2d": lambda x: F.adaptive_avg_pool2d(x, 1),
    "mean over height and width": lambda x: x.mean((2, 3)),
    "mean that keeps its dimensions": lambda x: torch.mean(x, (-1, -2), keepdim=True),
    "avg_pool2d over the whole image": lambda x: F.avg_pool2d(x, x.size(3)),
}


class Block(nn.Module):
    """A stem, a block with an identity, an own padding before the second convolution, a pool and a classifier."""

    def __init__(self, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.conv = nn.Conv2d(4, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Any) -> Any:
        x = torch.relu(self.stem(images))
        x = torch.relu(self.norm(self.conv(F.pad(x, (1, 1, 1, 1)))) + x)
        return self.head(torch.flatten(POOLS[self.pool](x), 1))


@cache
def exported(pool: str, target: TargetSpec) -> tuple[nn.Module, Placement, onnx.ModelProto]:
    torch.manual_seed(0)
    model = Block(pool)
    with torch.no_grad():  # statistics and gammas that BatchNorm folding has to respect
        for name, values in model.norm.state_dict().items():
            if name == "running_var":
                values.uniform_(0.5, 2.0)
            elif values.ndim:
                values.normal_()
    traced = trace(model.eval(), (1, 8, 8))
    placement = place(traced, target, model="block")
    return model, placement, float_template(traced, placement)


def reads(template: onnx.ModelProto) -> dict[str, tuple[str, list[str]]]:
    """For every marker: the operator whose result it reads, and those that read its own."""
    made = {output: node.op_type for node in template.graph.node for output in node.output}
    return {
        marker_name(node): (
            made.get(node.input[0], "input"),
            [other.op_type for other in template.graph.node if node.output[0] in other.input],
        )
        for node in template.graph.node
        if is_marker(node)
    }


def test_onnxruntimes_markers_stand_behind_the_tensors_and_cascade() -> None:
    _, placement, template = exported("AdaptiveAvgPool2d", ONNXRUNTIME)
    assert reads(template) == {
        "images": ("input", ["Conv"]),
        "relu": ("Relu", ["Pad", "Add"]),
        "relu_layers": ("Pad", ["Conv"]),
        "norm": ("Conv", ["Add"]),
        "relu_1": ("Relu", ["GlobalAveragePool"]),
        "adaptive_avg_pool2d": ("GlobalAveragePool", ["Reshape"]),
    }
    assert reads(template).keys() == {quantizer.name for quantizer in placement.quantizers}


def test_tensorrts_markers_stand_on_edges_and_never_between_padding_and_convolution() -> None:
    _, placement, template = exported("AdaptiveAvgPool2d", TENSORRT)
    found = reads(template)
    assert found.keys() == {quantizer.name for quantizer in placement.quantizers}
    assert found["images"] == ("input", ["Conv"])
    assert found["relu"] == ("Relu", ["Quantizer", "Add"])
    assert found["relu_layers"][0] == "Quantizer"
    assert found["relu_layers"][1] in (["Pad"], ["Conv"])  # the exporter may take the padding into the convolution
    assert found["adaptive_avg_pool2d"][1] == ["Gemm"]


@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT], ids=lambda target: target.name)
def test_every_layer_has_a_bias_and_its_own_name(target: TargetSpec) -> None:
    _, placement, template = exported("AdaptiveAvgPool2d", target)
    fixed = constants(template.graph)
    layers = [node for node in template.graph.node if node.op_type in ("Conv", "Gemm")]
    assert [node.input[1] for node in layers] == [f"{layer.name}.weight" for layer in placement.layers]
    for node, layer in zip(layers, placement.layers, strict=True):
        assert fixed[node.input[2]].shape == (layer.out_channels,)


def test_a_layer_without_bias_gets_one_of_zeros() -> None:
    traced = trace(nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Flatten(), nn.Linear(72, 3)).eval(), (1, 8, 8))
    placement = place(traced, ONNXRUNTIME, model="two")
    template = float_template(traced, placement, 21)
    conv = next(node for node in template.graph.node if node.op_type == "Conv")
    np.testing.assert_array_equal(constants(template.graph)[conv.input[2]], np.zeros(2))


@pytest.mark.parametrize(
    ("pool", "target"),
    [
        *((pool, ONNXRUNTIME) for pool in POOLS),
        ("AdaptiveAvgPool2d", TENSORRT),
        ("mean over height and width", TENSORRT),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_way_to_pool_the_whole_image_is_one_operator_and_the_float_model_is_torchs(
    pool: str, target: TargetSpec
) -> None:
    model, _, template = exported(pool, target)
    operators = [node.op_type for node in template.graph.node]
    assert operators.count("GlobalAveragePool") == 1
    assert not {"ReduceMean", "AveragePool"} & set(operators)

    stripped = strip_markers(template)
    assert [(entry.domain, entry.version) for entry in stripped.opset_import] == [("", target.opset)]
    session = ort.InferenceSession(stripped.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = torch.randn(count, 1, 8, 8)
        with torch.no_grad():
            expected = model(images).numpy()
        found = session.run(None, {"images": images.numpy()})[0]
        # float32 sums of 36 products in another order, and BatchNorm folded into the weights
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-5)


def test_a_pool_without_spatial_dimensions_is_flattened_behind_its_quantizer() -> None:
    _, _, template = exported("mean over height and width", ONNXRUNTIME)
    assert reads(template)["mean"] == ("GlobalAveragePool", ["Flatten"])


class Alone(nn.Module):
    """One function behind a convolution."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(1, 4, 3, padding=1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def test_what_the_exporter_has_no_form_for_is_taken_apart() -> None:
    def attended(x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)

    model = Alone(attended).eval()
    template = export_template(fx.symbolic_trace(model), (1, 4, 4), 21)
    images = torch.randn(3, 1, 4, 4)
    session = ort.InferenceSession(template.SerializeToString())
    found = session.run(None, {"images": images.numpy()})[0]
    np.testing.assert_allclose(found, model(images).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_what_stays_without_a_form_is_named_in_a_sentence() -> None:
    model = Alone(lambda x: torch.special.bessel_j0(x)).eval()
    with pytest.raises(ModelError, match=r"no form in ONNX for the operator 'prims\.bessel_j0\.default'"):
        export_template(fx.symbolic_trace(model), (1, 4, 4), 21)


def test_small_layers_of_equal_weights_stay_apart() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
            self.b.load_state_dict(self.a.state_dict())

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    model = Twins().eval()
    own = model.a.weight.detach().clone()
    template = export_template(fx.symbolic_trace(model), (1, 4, 4), 21)
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in template.graph.initializer}
    np.testing.assert_array_equal(weights["a.weight"], own.numpy())
    np.testing.assert_array_equal(weights["b.weight"], own.numpy())
    assert torch.equal(model.b.weight, own)


def test_results_of_any_form_have_names() -> None:
    class Several(nn.Module):
        def forward(self, x: Tensor) -> object:
            return {"out": x + 1, "levels": [x + 2, (x + 3,)]}

    graph_module = fx.symbolic_trace(Several())
    assert flatten_outputs(graph_module) == ["out", "levels_0", "levels_1_0"]
    assert [int(one) for one in graph_module(torch.zeros(()))] == [1, 2, 3]
    pair = fx.symbolic_trace(nn.Identity())
    assert flatten_outputs(pair) == ["logits"]
