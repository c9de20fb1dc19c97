"""Where quantizers stand in small networks, on each target."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limpq_deploy.export.records.placement import ActQuantizer, Placement
from limpq_deploy.export.records.targets import ONNXRUNTIME, REFERENCE, TARGETS, TENSORRT, TENSORRT_RTX, TargetSpec
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place, with_quantizers
from limpq_deploy.model.zoo import create_model


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


@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT, REFERENCE], ids=lambda target: target.name)
def test_one_activation_width_replaces_the_choice_and_nothing_else(target: TargetSpec) -> None:
    traced = trace(Identity(), (1, 8, 8))
    searched, fixed = (place(traced, target, model="m", act_bits=bits) for bits in (None, 6))
    assert any(quantizer.bits is None for quantizer in searched.quantizers)
    for before, after in zip(searched.quantizers, fixed.quantizers, strict=True):
        assert after == (replace(before, bits=6) if before.bits is None else before)
    policy = {layer.name: (2, 6) for layer in fixed.searched}
    assert fixed.act_grids(policy)[fixed.layer("b").input].bits == 6


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
