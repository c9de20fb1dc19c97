"""Operators without an integer form between layers: computed in float by plan, while every code around them equals the
integer reference's."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from limpq_deploy.calibration.errors import ModelError  # noqa: E402
from limpq_deploy.export.graph.float_nodes import FLOAT_NODES, planned_nodes  # noqa: E402
from limpq_deploy.export.lint.check import lint  # noqa: E402
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT, TargetSpec  # noqa: E402
from limpq_deploy.export.reference.foreign_parity import compare_file  # noqa: E402
from limpq_deploy.export.reference.parity import ParityReport, compare_runtime  # noqa: E402
from limpq_deploy.export.runtimes import runtime_named  # noqa: E402
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime  # noqa: E402

from .test_mobile_nets import SHAPE, Quantized, batches, quantized  # noqa: E402
from .test_operators import Around  # noqa: E402


class Attention(nn.Module):
    """A transformer's block on pixels, with a class token and a position for each."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.back = nn.Linear(8, 24), nn.Linear(8, 8)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 65, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        q, k, v = self.qkv(self.one(x)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.back(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.narrow(F.gelu(self.wide(self.two(x))))
        return x[:, 1:].transpose(1, 2).unflatten(2, (8, 8))


class Parallel(nn.Module):
    """An island of several tensors in and out, read by layers, by a sum and by another island."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        top, _ = torch.topk(y * x.norm(dim=1, keepdim=True), 4, dim=1)
        z = torch.softmax(torch.cat([top, y[:, 4:]], 1), 1)
        return self.second(z) + z + F.local_response_norm(z, 2)


class Tabled(nn.Module):
    """A bias that a small network computes from a table, whatever the images: Swin V2's positions. Its tensors are too
    large for an exporter to make constants of them."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(8, 8, 1)
        self.network = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, 8, bias=False))
        self.register_buffer("table", torch.randn(1, 8, 8, 2))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.network(self.table).permute(0, 3, 1, 2)
        return torch.softmax(self.before(x) + 4 * torch.sigmoid(bias), 1)


class Reused(nn.Module):
    """A head for two levels of a pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        small = F.relu(self.norm(self.head(F.max_pool2d(x, 2))))
        return F.relu(self.norm(self.head(x))) + F.interpolate(small, scale_factor=2, mode="bilinear")


ISLANDS: dict[str, Callable[[], nn.Module]] = {
    "GroupNorm": lambda: nn.GroupNorm(2, 8),
    "LayerNorm of pixels": lambda: Pixelwise(),
    "InstanceNorm": lambda: nn.InstanceNorm2d(8, affine=True),
    "L2": lambda: Of(lambda x: F.normalize(x, dim=1)),
    "attention": Attention,
    "several tensors": Parallel,
    "bias from a table": Tabled,
    "padding of ones": lambda: Of(lambda x: F.pad(x, (1, 0, 0, 2), value=1.0)),
    "bilinear, a head twice": Reused,
    "uneven average": lambda: nn.AdaptiveAvgPool2d(5),
    "cumulative sum": lambda: Of(lambda x: x.cumsum(2) / 3),
    "sum weighted": lambda: Of(lambda x: torch.add(x, x.flip(2), alpha=2)),
    "largest of all channels": lambda: Of(lambda x: x * x.amax((2, 3), keepdim=True) - x.argmax(1, keepdim=True)),
}


class Of(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Pixelwise(nn.Module):
    """ConvNeXt's."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def around(name: str, target: TargetSpec = ONNXRUNTIME) -> Quantized:
    torch.manual_seed(0)
    operator = ISLANDS[name]()
    model = Around(operator, tuple(operator(torch.randn(1, 8, 8, 8)).shape[1:]))
    return quantized(model, target)


def parity(net: Quantized, path: Path) -> ParityReport:
    onnx.save(net.file, path)
    return compare_runtime(path, batches(SHAPE), runtime_named("onnxruntime"), threads=1)


@pytest.mark.parametrize("name", ISLANDS)
def test_codes_around_islands_equal_the_reference_and_islands_are_counted_apart(name: str, tmp_path: Path) -> None:
    net = around(name)
    report = parity(net, tmp_path / "model.onnx")
    assert net.placement.float_operators
    assert report.exact
    assert report.elements > 0
    assert report.mismatches == 0
    assert report.islands
    assert all(island.codes > 0 for island in report.islands)
    assert {one.tensor for one in report.tensors}.isdisjoint({island.name for island in report.islands})


@pytest.mark.parametrize("name", ISLANDS)
def test_the_lint_knows_islands_as_planned(name: str, tmp_path: Path) -> None:
    net = around(name)
    names = planned_nodes(net.file)
    found = lint(net.file, ONNXRUNTIME)
    assert set(names) <= {node.name for node in net.file.graph.node}
    assert found.float_compute == ()
    assert not [one for one in found.findings if one.severity != "slower"]
    unnamed = onnx.ModelProto()
    unnamed.CopyFrom(net.file)
    del unnamed.metadata_props[:]
    products = {node.op_type for node in net.file.graph.node if node.name in names} & {"Conv", "Add", "MatMul"}
    assert bool(lint(unnamed, ONNXRUNTIME).float_compute) >= bool(products)


@pytest.mark.parametrize("version", ["8.6", "11"])
@pytest.mark.parametrize("name", ISLANDS)
def test_tensorrts_file_computes_what_the_model_does(name: str, version: str, tmp_path: Path) -> None:
    if name == "several tensors" and version == "8.6":
        pytest.skip("onnx's TopK of opset 17 is the same; kept for 11 alone, for time")
    net = around(name, TENSORRT)
    images = batches(SHAPE)[0]
    session = ort.InferenceSession(net.file.SerializeToString())
    with torch.no_grad():
        expected = net.model.eval()(torch.from_numpy(images)).numpy()
    found = session.run(None, {"images": images})[0]
    np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())
    assert not [one for one in lint(net.file, TENSORRT).findings if one.severity in ("refused", "float")]


def test_a_changed_code_is_found_behind_and_before_islands(tmp_path: Path) -> None:
    net = around("attention")
    path, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    onnx.save(net.file, path)
    file = net.file
    [codes] = [tensor for tensor in file.graph.initializer if tensor.name == "operator.wide.weight_codes"]
    values = onnx.numpy_helper.to_array(codes).copy()
    values[0] = -values[0]
    codes.CopyFrom(onnx.numpy_helper.from_array(values, codes.name))
    onnx.save(file, other)
    found = compare_runtime(path, batches(SHAPE), runtime_named("onnxruntime"), reference_path=other, threads=1)
    assert found.mismatches > 0
    assert not found.exact


def test_the_file_alone_is_compared_the_same_way(tmp_path: Path) -> None:
    net = around("attention")
    own = parity(net, tmp_path / "model.onnx")
    found = compare_file(tmp_path / "model.onnx", batches(SHAPE), OnnxRuntime(), threads=1)
    assert found.exact
    assert found.mismatches == own.mismatches == 0
    assert found.islands


class Outputs(nn.Module):
    """A dict of a map, a tuple and vectors; of a layer, of a sum, of a function and of an island."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.inner, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.head, self.linear = nn.Conv2d(8, 4, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, object]:
        x = F.relu(self.last(F.relu(self.inner(F.relu(self.stem(x))))))
        y = self.body(x) + x
        map = F.interpolate(self.head(y), scale_factor=2, mode="bilinear")
        return {"map": map, "features": (y, torch.sigmoid(self.head(x))), "vectors": self.linear(y.mean((2, 3)))}


def test_every_output_is_exported_by_name_and_compared(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = quantized(Outputs())
    assert [one.name for one in net.file.graph.output] == ["map", "features_0", "features_1", "vectors"]
    assert [layer.name for layer in net.placement.pinned] == ["stem", "last", "body", "head", "head_call2", "linear"]
    report = parity(net, tmp_path / "model.onnx")
    assert report.exact
    assert report.logits_equal
    assert lint(net.file, ONNXRUNTIME).float_compute == ()


def test_a_network_without_islands_names_none() -> None:
    net = quantized(Around(nn.ReLU(), (8,)))
    assert FLOAT_NODES not in {entry.key for entry in net.file.metadata_props}
    assert net.placement.float_operators == ()


def test_names_of_float_nodes_are_checked() -> None:
    net = around("GroupNorm")
    file = net.file
    [entry] = [one for one in file.metadata_props if one.key == FLOAT_NODES]
    assert json.loads(entry.value) == list(planned_nodes(file))
    entry.value = "{}"
    with pytest.raises(ModelError, match=r"damaged metadata limpq\.float_nodes; export it again"):
        planned_nodes(file)
