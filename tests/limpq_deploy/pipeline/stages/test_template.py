"""The float graph that a build's files are made from carries what was trained beside layers."""

from types import SimpleNamespace
from typing import Any

import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")

from torch import Tensor, nn  # noqa: E402

from limpq_deploy.export.records.targets import ONNXRUNTIME  # noqa: E402
from limpq_deploy.model.layers import trace  # noqa: E402
from limpq_deploy.model.place import place  # noqa: E402
from limpq_deploy.pipeline.stages.template import make_template, template_of  # noqa: E402
from limpq_deploy.quant.quantized_model import model_of_policy  # noqa: E402


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3)
        self.c = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.norm(self.a(x))).mean((2, 3)))


def norm(template: onnx.ModelProto) -> Any:
    return next(
        torch.from_numpy(onnx.numpy_helper.to_array(one).copy())
        for one in template.graph.initializer
        if one.name == "norm.weight"
    )


def test_a_trained_norm_is_exported_as_it_was_trained() -> None:
    traced = trace(Normed().eval(), (3, 8, 8))
    placement = place(traced, ONNXRUNTIME, model="normed")
    subject: Any = SimpleNamespace(placement=placement, form=ONNXRUNTIME.forms[0], empty_graph=None)
    template = make_template(subject, traced)
    model = model_of_policy(traced, placement, {layer.name: (4, 4) for layer in placement.searched})
    assert template_of(subject, traced, template, model) is template
    trained = torch.rand(4) + 1
    with torch.no_grad():
        model.graph.get_parameter("norm.weight").copy_(trained)
    found = template_of(subject, traced, template, model)
    assert torch.equal(norm(found), trained)
    assert torch.equal(norm(template), torch.ones(4))
    assert torch.equal(traced.graph_module.get_parameter("norm.weight").detach(), torch.ones(4))


def test_weights_that_were_trained_do_not_need_another_export(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)), (3, 8, 8))
    traced.graph_module.eval()
    placement = place(traced, ONNXRUNTIME, model="plain")
    subject: Any = SimpleNamespace(placement=placement, form=ONNXRUNTIME.forms[0], empty_graph=None)
    make_template(subject, traced)
    with torch.no_grad():
        for parameter in traced.graph_module.parameters():
            parameter.add_(torch.rand_like(parameter) + 0.1)
    subject.empty_graph, kept = None, subject.empty_graph
    exported = make_template(subject, traced)
    subject.empty_graph = kept
    monkeypatch.delattr("limpq_deploy.pipeline.stages.template.export_and_alone")
    assert make_template(subject, traced) == exported


class Tied(nn.Module):
    """A weight that a layer has, and that a product reads as it is; ``first``: under a name of its own."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        table = nn.Parameter(torch.randn(4, 4))
        if first:
            self.table = table
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 2)
        self.b.weight = self.table = table

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.b(torch.relu(self.a(x)).mean((2, 3))))
        return self.c(torch.matmul(y, self.table))


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_layers_weight_that_an_operator_reads_too_is_exported_there_as_it_was_trained(
    *, first: bool, share: bool
) -> None:
    traced = trace(Tied(first=first).eval(), (3, 8, 8))
    placement = place(traced, ONNXRUNTIME, model="tied")
    subject: Any = SimpleNamespace(placement=placement, form=ONNXRUNTIME.forms[0], empty_graph=None)
    template = make_template(subject, traced)
    model = model_of_policy(traced, placement, {layer.name: (4, 4) for layer in placement.searched}, share=share)
    trained = torch.rand(4, 4)
    with torch.no_grad():
        model.quant_layer("b").weight.copy_(trained)
    graph = template_of(subject, traced, template, model).graph
    [product] = [node for node in graph.node if node.op_type == "MatMul"]
    read = next(onnx.numpy_helper.to_array(one) for one in graph.initializer if one.name == product.input[1])
    assert torch.equal(torch.from_numpy(read.copy()), trained)
