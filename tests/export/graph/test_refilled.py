"""A graph with other weights is the one that would be exported of them, or none."""

import copy
from collections.abc import Callable

import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")

from torch import Tensor, fx, nn  # noqa: E402

from limpq_deploy.export.graph.from_torch import export_and_alone  # noqa: E402
from limpq_deploy.export.graph.refilled import EmptyGraph, Tensors, emptied, refilled  # noqa: E402

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """Two convolutions, norms beside them that are equal at first, a product with a parameter, and a head."""

    def __init__(self, *, norms: bool) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)
        self.first = nn.GroupNorm(2, 8) if norms else nn.Identity()
        self.second = nn.GroupNorm(2, 8) if norms else nn.Identity()
        self.gain = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(self.a(x)))
        return self.fc((y + self.second(self.b(y)) * self.gain).mean((2, 3)))


def other(model: nn.Module) -> nn.Module:
    """The model as training leaves it: no tensor is what it was."""
    found = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.rand_like(parameter) + 0.1)
    return found


def exported(model: nn.Module) -> onnx.ModelProto:
    return export_and_alone(fx.symbolic_trace(copy.deepcopy(model)), SHAPE, 18)[0]


def emptied_of(model: nn.Module) -> EmptyGraph:
    template, alone = export_and_alone(fx.symbolic_trace(copy.deepcopy(model)), SHAPE, 18)
    return emptied(template, state(model), alone)


def state(model: nn.Module) -> Tensors:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def test_other_weights_give_the_graph_that_is_exported_of_them() -> None:
    model = Net(norms=False).eval()
    graph = emptied_of(model)
    assert graph.open == {"a.weight", "a.bias", "b.weight", "b.bias", "fc.weight", "fc.bias", "gain"}
    for one in (model, other(model)):
        found = refilled(graph, state(one))
        assert found is not None
        assert found.SerializeToString(deterministic=True) == exported(one).SerializeToString(deterministic=True)


def test_weights_are_not_kept_and_the_graph_itself_is_not_changed() -> None:
    model = Net(norms=False).eval()
    given = exported(model)
    before = given.SerializeToString(deterministic=True)
    graph = emptied(given, state(model), state(model))
    assert given.SerializeToString(deterministic=True) == before
    sizes = {tensor.name: len(tensor.raw_data) for tensor in graph.model.graph.initializer}
    assert sizes["b.weight"] == 0


def test_tensors_that_the_exporter_made_one_need_another_export_once_they_differ() -> None:
    model = Net(norms=True).eval()
    graph = emptied_of(model)
    assert refilled(graph, state(model)) is not None
    assert refilled(graph, state(other(model))) is None


def test_a_tensor_of_another_shape_or_type_or_a_missing_one_needs_another_export() -> None:
    model = Net(norms=True).eval()
    own = dict(state(model))
    graph = emptied_of(model)
    for name in (next(iter(graph.fixed)), "a.weight"):
        for wrong in (own[name].reshape(1, -1), own[name].astype("float64")):
            assert refilled(graph, {**own, name: wrong}) is None
        assert refilled(graph, {key: value for key, value in own.items() if key != name}) is None


def test_zeros_that_the_exporter_leaves_out_need_another_export() -> None:
    model = Net(norms=False).eval()
    without = copy.deepcopy(model)
    with torch.no_grad():
        without.get_parameter("b.bias").zero_()
    assert refilled(emptied_of(without), state(model)) is None
    assert refilled(emptied_of(model), state(without)) is None


class Twice(nn.Module):
    """A gain that is read beside images, and of which the exporter makes a constant too."""

    def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.gain, self.made = nn.Conv2d(3, 8, 3), nn.Parameter(torch.rand(8, 1, 1)), made

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x) * self.gain) + self.made(self.gain)


CONSTANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "another size": torch.exp,
    "one number": lambda gain: gain.norm(),
    "turned round": lambda gain: gain.permute(1, 2, 0).softmax(-1).sum(),
    "beside a constant": lambda gain: gain * torch.arange(8).reshape(8, 1, 1),
}


@pytest.mark.parametrize("kind", CONSTANTS)
def test_a_tensor_that_the_exporter_also_computed_a_constant_from_needs_another_export(kind: str) -> None:
    model = Twice(CONSTANTS[kind]).eval()
    graph = emptied_of(model)
    assert graph.open == {"a.weight", "a.bias"}
    assert refilled(graph, state(model)) is not None
    assert refilled(graph, state(other(model))) is None


@pytest.mark.parametrize("shape", [(), (8, 1, 1)])
def test_a_tensor_that_was_equal_to_a_constant_needs_another_export(shape: tuple[int, ...]) -> None:
    class Equal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.gain = nn.Conv2d(3, 8, 3), nn.Parameter(torch.full(shape, 2.0))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(torch.tanh(self.a(x) * self.gain) + (torch.full(shape, 2.0) if shape else 2.0))

    model = Equal().eval()
    graph = emptied_of(model)
    assert graph.open == {"a.weight", "a.bias"}
    assert refilled(graph, state(other(model))) is None
