import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limpq_deploy.export.records.placement import ActQuantizer, Placement
from limpq_deploy.export.records.targets import ONNXRUNTIME, REFERENCE, TARGETS, TENSORRT, TENSORRT_RTX, TargetSpec
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place, with_quantizers
from limpq_deploy.model.zoo import create_model
from limpq_deploy.model.zoo.torchvision import import_torchvision


class Plain(nn.Module):
    """conv - relu - maxpool - conv - relu - linear, no sums."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 2, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.b = nn.Conv2d(2, 2, 3, padding=1)
        self.c = nn.Linear(2 * 4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.a(x)))
        return self.c(torch.flatten(torch.relu(self.b(x)), 1))


class Identity(nn.Module):
    """A stem, then a block whose shortcut is the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 2, 3, padding=1)
        self.b = nn.Conv2d(2, 2, 3, padding=1)
        self.bn = nn.BatchNorm2d(2)
        self.c = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(self.bn(self.b(x)) + x)
        return self.c(x.mean((2, 3)))


class OptionA(nn.Module):
    """A block whose shortcut slices and pads."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 2, 3, padding=1)
        self.b = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.c = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(self.b(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))
        return self.c(x.mean((2, 3)))


class Downsample(nn.Module):
    """A block whose shortcut is a convolution that reads the block's input."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 2, 3, padding=1)
        self.b = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.d = nn.Conv2d(2, 4, 1, stride=2)
        self.c = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(self.b(x) + self.d(x))
        return self.c(x.mean((2, 3)))


NETS = {"plain": Plain, "identity": Identity, "option A": OptionA, "downsample": Downsample}


def placement_of(net: str, target: TargetSpec) -> Placement:
    return place(trace(NETS[net](), (1, 8, 8)), target, model=net)


def described(placement: Placement) -> list[tuple[str, str, int | None, tuple[str, ...], str | None]]:
    """(name, s or u, bits, layers, parent) of every quantizer."""
    return [(q.name, "s" if q.signed else "u", q.bits, q.layers, q.parent) for q in placement.quantizers]


def test_plain_net_has_one_quantizer_for_each_layer_and_maxpool_acts_on_codes() -> None:
    for target in (ONNXRUNTIME, TENSORRT):
        assert described(placement_of("plain", target)) == [
            ("x", "s", 8, ("a",), None),
            ("relu", "u", None, ("b",), None),
            ("relu_1", "u", 8, ("c",), None),
        ]


def test_onnxruntime_quantizes_both_addends_the_sum_and_the_pooled_tensor() -> None:
    assert described(placement_of("identity", ONNXRUNTIME)) == [
        ("x", "s", 8, ("a",), None),
        ("relu", "u", 8, (), None),
        ("relu_layers", "u", None, ("b",), "relu"),
        ("bn", "s", 8, (), None),
        ("relu_1", "u", 8, (), None),
        ("mean", "u", 8, ("c",), None),
    ]


def test_tensorrt_quantizes_the_identity_addend_only() -> None:
    assert described(placement_of("identity", TENSORRT)) == [
        ("x", "s", 8, ("a",), None),
        ("relu", "u", 8, (), None),
        ("relu_layers", "u", None, ("b",), "relu"),
        ("mean", "u", 8, ("c",), None),
    ]


def test_where_both_addends_are_convolutions_tensorrt_quantizes_the_second() -> None:
    """By custom the shortcut; the first is fused with the sum."""
    assert described(placement_of("downsample", TENSORRT)) == [
        ("x", "s", 8, ("a",), None),
        ("relu", "u", None, ("b", "d"), None),
        ("d", "s", 8, (), None),
        ("mean", "u", 8, ("c",), None),
    ]


@pytest.mark.parametrize("activation", [nn.SiLU, nn.Hardswish])
@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT, REFERENCE], ids=lambda target: target.name)
def test_few_and_small_negative_values_take_an_offset_grid_where_the_target_has_one(
    activation: type[nn.Module], target: TargetSpec
) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        activation(),
        nn.Conv2d(2, 2, 3),
        nn.ReLU(),
        nn.Conv2d(2, 2, 1),
        nn.Conv2d(2, 2, 1),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    placement = place(trace(net, (1, 8, 8)), target, model="net")
    policy = {layer.name: (8, 8) for layer in placement.searched}
    read = {layer.name: placement.quantizer(layer.input) for layer in placement.layers}
    grids = placement.act_grids(policy)
    assert [(read[name].signed, read[name].offset) for name in ("2", "4", "5")] == [
        (True, True),
        (False, False),
        (True, False),
    ]
    ends = {name: (grids[read[name].name].qmin, grids[read[name].name].qmax) for name in ("2", "4", "5")}
    offset = target.offset_zero_point is not None
    assert ends["2"] == ((-16, 239) if offset else (-128, 127))
    assert ends["5"] == (-128, 127)


def test_option_a_shortcuts_slice_and_pad_the_codes_of_the_blocks_input() -> None:
    assert described(placement_of("option A", ONNXRUNTIME)) == [
        ("x", "s", 8, ("a",), None),
        ("relu", "u", 8, (), None),
        ("relu_layers", "u", None, ("b",), "relu"),
        ("b", "s", 8, (), None),
        ("relu_1", "u", 8, (), None),
        ("mean", "u", 8, ("c",), None),
    ]


@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT], ids=lambda target: target.name)
def test_a_downsample_convolution_shares_quantizer_and_group_with_the_blocks_first_one(target: TargetSpec) -> None:
    placement = placement_of("downsample", target)
    assert placement.quantizer("relu") == ActQuantizer(
        name="relu", tensor="relu", signed=False, bits=None, layers=("b", "d"), producer="a"
    )
    assert [placement.act_group(layer) for layer in placement.layers] == [None, "relu", "relu", None]


@pytest.mark.parametrize("net", NETS)
def test_reference_gives_every_layer_its_own_quantizer_and_ties_none(net: str) -> None:
    placement = placement_of(net, REFERENCE)
    assert [q.layers for q in placement.quantizers] == [(layer.name,) for layer in placement.layers]
    assert all(placement.act_group(layer) is None for layer in placement.layers)
    assert all(q.parent is None for q in placement.quantizers)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
@pytest.mark.parametrize("net", NETS)
def test_the_quantizers_stand_in_the_graph_where_the_placement_says(net: str, target: TargetSpec) -> None:
    """Every quantizer is passed, an unsigned one by no negative value; doing nothing, they change nothing."""
    model = NETS[net]().eval()
    traced = trace(model, (1, 8, 8))
    placement = place(traced, target, model=net)
    called: set[str] = set()

    class Recorder(nn.Module):
        def __init__(self, quantizer: ActQuantizer) -> None:
            super().__init__()
            self.quantizer = quantizer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            called.add(self.quantizer.name)
            if not self.quantizer.signed:
                assert x.min() >= 0
            return x

    graph = with_quantizers(traced, placement, Recorder)
    image = torch.randn(2, 1, 8, 8)
    assert torch.equal(graph(image), model(image))
    assert called == {q.name for q in placement.quantizers}


def test_the_first_and_the_last_layer_are_pinned_at_the_bits_asked_for() -> None:
    placement = place(trace(Identity(), (1, 8, 8)), ONNXRUNTIME, model="identity", pinned_bits=6)
    assert [(layer.name, layer.pinned_bits) for layer in placement.layers] == [("a", 6), ("b", None), ("c", 6)]


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
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "1 (Conv2d) pads with 'circular'; only zero padding"),
    ],
    ids=["GroupNorm", "windows of several sizes", "sums of windows", "statistics of images", "circular padding"],
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
    assert found.macs == (64 * 2 * 2 * 9 if isinstance(module, nn.Conv2d) else 0)


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
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.a(x))
            y = torch.relu(self.b(x)) + x
            return {"near": self.wide(x), "far": [F.interpolate(torch.sigmoid(y), scale_factor=2)]}  # type: ignore[return-value]

    placement = place(trace(Heads(logits).eval(), (1, 8, 8)), ONNXRUNTIME, model="heads")
    assert [layer.name for layer in placement.pinned] == ["a", "b", "wide"]


def test_dropout_between_layer_and_relu_and_behind_the_logits_is_no_obstacle() -> None:
    model = Tail(lambda m, x: m.drop(logits(m, torch.relu(m.drop(m.b(x))))))
    place(trace(model.eval(), (1, 8, 8)), ONNXRUNTIME, model="tail")


class OwnPad(nn.Module):
    """A convolution with a padding of its own, as exporters of other frameworks write it."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.a = nn.Conv2d(1, 2, 3, padding=1)
        self.b = nn.Conv2d(2, 2, 3, stride=2)
        self.c = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pad(torch.relu(self.a(F.pad(x, (1, 1, 1, 1)))))
        return self.c(torch.relu(self.b(x)).mean((2, 3)))


def test_tensorrt_quantizes_before_a_layers_own_padding() -> None:
    """Zeros stay zeros, so nothing changes but that Pad and convolution can be one kernel."""
    traced = trace(OwnPad(), (1, 8, 8))
    graph = with_quantizers(traced, place(traced, TENSORRT, model="own pad"), lambda quantizer: nn.Identity())
    readers = {str(node.target): list(node.users) for node in graph.graph.nodes if "quantizers." in str(node.target)}
    assert [user.target for user in readers["quantizers.x"]] == [F.pad]
    assert [user.target for user in readers["quantizers.relu"]] == ["pad"]
    image = torch.randn(2, 1, 8, 8)
    assert torch.equal(graph(image), traced.graph_module(image))


@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT, REFERENCE], ids=lambda target: target.name)
def test_one_activation_width_replaces_the_choice_and_nothing_else(target: TargetSpec) -> None:
    traced = trace(Identity(), (1, 8, 8))
    searched, fixed = (place(traced, target, model="m", act_bits=bits) for bits in (None, 6))
    assert any(quantizer.bits is None for quantizer in searched.quantizers)
    for before, after in zip(searched.quantizers, fixed.quantizers, strict=True):
        assert after == (replace(before, bits=6) if before.bits is None else before)
    policy = {layer.name: (2, 6) for layer in fixed.searched}
    assert fixed.act_grids(policy)[fixed.layer("b").input].bits == 6


def test_a_branch_that_training_drops_at_random_is_no_identity_for_tensorrt() -> None:
    """EfficientNet's ``stochastic_depth(conv(x)) + x``: the quantizer stands on x."""
    torchvision = import_torchvision()

    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
            self.branch = nn.Conv2d(2, 2, 3, padding=1)
            self.drop = torchvision.ops.StochasticDepth(0.2, "row")
            self.linear = nn.Linear(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.linear((self.drop(self.branch(x)) + x).mean((2, 3)))

    placement = place(trace(Dropped().eval(), (1, 8, 8)), TENSORRT, model="dropped")
    assert [quantizer.tensor for quantizer in placement.quantizers if not quantizer.layers] == ["stem_1"]


class Blocks(nn.Module):
    """``x + bn(conv(x))``, again and again: every tensor is reached on 2 to the n paths."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(count))
        self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(count))
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = x + norm(convolution(x))
        return self.linear(x.mean((2, 3)))


def calls(count: int, target: TargetSpec) -> int:
    """Python calls, of whatever, while a network of so many blocks is traced and placed."""
    model, found = Blocks(count).eval(), [0]

    def count_call(frame: FrameType, event: str, _: object) -> None:
        found[0] += event in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        traced = trace(model, (2, 2, 2))
        with_quantizers(traced, place(traced, target, model="blocks"), lambda _: nn.Identity())
    finally:
        sys.setprofile(None)
    return found[0]


@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT], ids=lambda target: target.name)
def test_tracing_and_placing_are_linear_in_the_blocks(target: TargetSpec) -> None:
    calls(2, target)  # what is imported or cached once
    few, more, most = (calls(count, target) for count in (10, 20, 40))
    # calls of n blocks are a + b * n; square growth would give a second difference of half the first one
    assert most - more < 2.2 * (more - few)


def test_a_thousand_layers_deep_is_no_recursion() -> None:
    traced = trace(Blocks(350).eval(), (2, 2, 2))
    assert traced.lowest(traced.node("linear").all_input_nodes[0]) == "free"


def test_a_stream_that_only_layers_in_float_read_travels_in_float_where_the_target_says_so() -> None:
    model, _ = create_model("resnet8")
    traced = trace(model.eval(), (1, 16, 16))
    for target, floats in ((TENSORRT, False), (TENSORRT_RTX, True)):
        placement = place(traced, target, model="resnet8")
        everywhere = placement.act_grids({layer.name: (16, 16) for layer in placement.searched})
        fixed = {one.name for one in placement.quantizers if one.bits is not None}
        pinned = {layer.input for layer in placement.pinned}
        assert everywhere.keys() == (pinned if floats else fixed)
        for layer in placement.searched:  # one reader in integers, and the codes that it reads stay
            policy = {other.name: (16, 16) for other in placement.searched if other.input != layer.input}
            policy |= {other.name: (8, 8) for other in placement.searched if other.input == layer.input}
            read = placement.quantizer(layer.input)
            assert (read.parent or read.name) in placement.act_grids(policy)
