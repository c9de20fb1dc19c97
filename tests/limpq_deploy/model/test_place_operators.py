"""Operators without an integer form, islands of them, and layers that feed outputs."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limpq_deploy.export.records.targets import ONNXRUNTIME, REFERENCE, TENSORRT, TargetSpec
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place, with_quantizers


def with_layer(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), module, nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT], ids=lambda target: target.name)
@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (nn.GroupNorm(1, 2), "layer 1 (GroupNorm) has no integer form here"),
        (nn.AdaptiveAvgPool2d(5), "1 (AdaptiveAvgPool2d) pools to 5x5; only averages over whole images or windows"),
        (nn.AvgPool2d(2, divisor_override=3), "1 (AvgPool2d) pools to 4x4; only averages over whole images or"),
        (nn.BatchNorm2d(2, track_running_stats=False), "has affine=True and track_running_stats=False; expected both"),
        (nn.ConvTranspose2d(2, 2, 3, padding=2, dilation=2), "layer 1 (ConvTranspose2d) has no integer form here"),
    ],
    ids=["GroupNorm", "windows of several sizes", "sums of windows", "statistics of images", "dilation"],
)
def test_what_has_no_integer_form_is_computed_in_float_and_the_placement_says_why(
    module: nn.Module, sentence: str, target: TargetSpec
) -> None:
    model = with_layer(module)
    model(torch.zeros(1, 1, 8, 8))
    [found] = place(trace(model.eval(), (1, 8, 8)), target, model="net").float_operators
    assert (found.name, found.operator) == ("_1", type(module).__name__)
    assert sentence in found.why
    assert found.num_weights == sum(one.numel() for one in module.parameters())
    assert found.macs == (64 * 2 * 2 * 9 if isinstance(module, nn.ConvTranspose2d) else 0)


class Tail(nn.Module):
    """conv - BatchNorm, then what a test gives, which must end with three numbers for each image."""

    def __init__(self, tail: Callable[["Tail", torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.b = nn.Conv2d(2, 2, 3, padding=1)
        self.wide = nn.Conv2d(2, 3, 1)
        self.c = nn.Linear(2, 3)
        self.d = nn.Linear(2, 3)
        self.drop = nn.Dropout(0.5)
        self.tail = tail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self, self.norm(self.a(x)))


def logits(model: Tail, x: torch.Tensor) -> torch.Tensor:
    return model.c(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("tail", "floats"),
    [
        (lambda m, x: logits(m, torch.add(m.b(x), x, alpha=2)), ("add",)),
        (lambda m, x: m.c(x.mean(1)[:, 0, :2]), ("mean",)),
        (lambda m, x: logits(m, m.norm(m.b(x))), ()),
        (lambda m, x: logits(m, torch.relu(x) + x), ()),
        (lambda m, x: m.c(x.mean((2, 3))) + m.d(x.mean((2, 3))), ()),
        (lambda m, x: m.c(x[:, :, :, :2]), ()),
    ],
    ids=[
        "weighted sum",
        "mean over channels",
        "shared batchnorm",
        "relu beside sum",
        "sum of logits",
        "linear on maps",
    ],
)
def test_a_network_is_refused_for_no_operator(
    tail: Callable[[Tail, torch.Tensor], torch.Tensor], floats: tuple[str, ...]
) -> None:
    model = Tail(tail).eval()
    traced = trace(model, (1, 8, 8))
    images = torch.randn(2, 1, 8, 8)
    for target in (ONNXRUNTIME, TENSORRT, REFERENCE):
        placement = place(traced, target, model="tail")
        assert tuple(one.name for one in placement.float_operators) == floats
        graph = with_quantizers(traced, placement, lambda quantizer: nn.Identity())
        torch.testing.assert_close(graph(images), model(images))


class Islands(nn.Module):
    """Attention of pixels by what a layer gives, with a parameter of its own, and a norm behind."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.norm, self.c = nn.GroupNorm(1, 2), nn.Linear(2, 3)
        self.bias = nn.Parameter(torch.randn(64, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.a(x).flatten(2).chunk(3, 1)
        y = v @ torch.softmax(k.transpose(1, 2) @ q + self.bias, 1)
        y = self.norm(y.unflatten(2, (8, 8)))
        return self.c((self.b(y) + y).mean((2, 3)))


def test_a_target_of_codes_quantizes_what_islands_read_and_no_island_inside() -> None:
    traced = trace(Islands().eval(), (1, 8, 8))
    placement = place(traced, ONNXRUNTIME, model="islands")
    read = [quantizer.tensor for quantizer in placement.quantizers]
    assert read == ["x", "a", "norm", "norm", "b", "add_1", "mean"]
    assert [one.operator for one in placement.float_operators] == ["matmul", "add", "softmax", "matmul", "GroupNorm"]
    graph = with_quantizers(traced, placement, lambda quantizer: nn.Identity())
    norm = next(node for node in graph.graph.nodes if node.target == "norm")
    assert all(str(node.target).startswith("quantizers.") for node in norm.users)


def test_tensorrt_quantizes_nothing_for_islands() -> None:
    placement = place(trace(Islands().eval(), (1, 8, 8)), TENSORRT, model="islands")
    assert all(quantizer.tensor in ("x", "norm", "mean") for quantizer in placement.quantizers)


def test_multiply_accumulates_of_islands_are_counted_beside_those_of_layers() -> None:
    placement = place(trace(Islands().eval(), (1, 8, 8)), ONNXRUNTIME, model="islands")
    layers, products = 64 * 6 * 9 + 64 * 2 * 2 + 2 * 3, 2 * 64 * 64 * 2
    assert placement.macs == layers + products
    assert placement.float_share == products / (layers + products)
    assert placement.floats_in_words == "2 matmul, add, softmax, GroupNorm"


def test_every_layer_that_feeds_an_output_is_pinned() -> None:
    class Heads(Tail):
        def __init__(self) -> None:
            super().__init__(logits)
            self.near = nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.a(x))
            z = torch.relu(self.b(x))
            y = torch.relu(self.near(z)) + x
            return {"near": self.wide(x), "far": [F.interpolate(torch.sigmoid(y), scale_factor=2)]}  # type: ignore[return-value]

    model = Heads()
    placement = place(trace(model.eval(), (1, 8, 8)), ONNXRUNTIME, model="heads")
    assert [layer.name for layer in placement.pinned] == ["a", "near", "wide"]


def test_where_all_would_be_pinned_the_first_layer_alone_is() -> None:
    def pinned(model: nn.Module) -> list[bool]:
        placement = place(trace(model.eval(), (1, 8, 8)), TENSORRT, model="small")
        return [layer.pinned_bits is not None for layer in placement.layers]

    alone = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    assert pinned(alone) == [False]
    assert pinned(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))) == [True, False]


def test_dropout_between_layer_and_relu_and_behind_the_logits_is_no_obstacle() -> None:
    model = Tail(lambda m, x: m.drop(logits(m, torch.relu(m.drop(m.b(x))))))
    place(trace(model.eval(), (1, 8, 8)), ONNXRUNTIME, model="tail")
