"""Which activations are in memory while each step runs, on nets small enough to count by hand."""

import pytest
import torch
from torch import nn

from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import ONNXRUNTIME, REFERENCE, TENSORRT, TargetSpec
from limpq_deploy.model.activation_memory import act_elements, activation_moments, with_memory
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.model.shapes import elements
from limpq_deploy.policy.indicators import ActMoment, Indicators, LayerIndicators

IMAGE, X, Y, OUT = 16 * 16, 6 * 8 * 8, 8 * 4 * 4, 8
"""Elements in the tiny net: image, stem's result, a block's tensor, pooled result."""


def moments(model: nn.Module, target: TargetSpec, shape: tuple[int, ...] = (1, 16, 16)) -> dict[str, ActMoment]:
    traced = trace(model, shape)
    found = activation_moments(traced, place(traced, target, model="tiny"))
    return {moment.name: moment for moment in found}


def test_inputs_are_counted_in_elements_of_one_image(tiny: tuple[TracedModel, Placement]) -> None:
    assert act_elements(tiny[0]) == {"conv1": IMAGE, "conv2": X, "conv3": Y, "shortcut": X, "linear": OUT}


def test_a_tensor_lives_until_its_last_reader_and_carriers_take_8_bits(tiny_model: nn.Module) -> None:
    found = moments(tiny_model, ONNXRUNTIME)
    expected = {
        "conv1": (8 * IMAGE, {"conv2": X}),
        "conv2": (0, {"conv2": X, "conv3": Y}),
        "conv3": (8 * Y, {"conv2": X, "conv3": Y}),  # the shortcut, yet to run, reads the stem's result
        "shortcut": (8 * 2 * Y, {"conv2": X}),
        "add": (8 * 3 * Y, {}),
        "pool": (8 * (Y + OUT), {}),
        "linear": (8 * OUT, {}),
    }
    assert {name: (moment.fixed_bits, moment.tensors) for name, moment in found.items()} == expected


def test_what_a_target_fuses_takes_no_memory(tiny_model: nn.Module) -> None:
    found = moments(tiny_model, TENSORRT)
    assert found["conv3"] == ActMoment(name="conv3", fixed_bits=0, tensors={"conv2": X, "conv3": Y})
    assert found["add"].fixed_bits == 8 * Y


def test_where_readers_quantize_for_themselves_each_keeps_its_own_codes(tiny_model: nn.Module) -> None:
    found = moments(tiny_model, REFERENCE)
    assert found["conv2"] == ActMoment(name="conv2", fixed_bits=0, tensors={"conv2": X, "shortcut": X, "conv3": Y})


class Pools(nn.Module):
    """A maximum pool between two searched layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.third, self.last = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(2 * 4 * 4, 3)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.third(torch.max_pool2d(torch.relu(self.second(torch.relu(self.first(images_NCHW)))), 2)))
        return self.last(torch.flatten(x, 1))


def test_a_maximum_pool_keeps_what_it_reads_and_what_it_makes_at_one_width() -> None:
    found = moments(Pools().eval(), ONNXRUNTIME, (1, 8, 8))
    assert found["max_pool2d"].tensors == {"third": 2 * 8 * 8 + 2 * 4 * 4}
    assert found["third"] == ActMoment(name="third", fixed_bits=8 * 2 * 4 * 4, tensors={"third": 2 * 4 * 4})
    assert found["last"] == ActMoment(name="last", fixed_bits=8 * 2 * 4 * 4, tensors={})


class Several(nn.Module):
    """What gives several tensors at once: a maximum with its place, a recurrence with its states, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)
        self.attention, self.rnn = nn.MultiheadAttention(4, 2, batch_first=True), nn.LSTM(4, 4, batch_first=True)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        x, places = torch.max(torch.relu(self.first(images_NCHW)), dim=2)
        x = (x + places).transpose(1, 2)
        x = x + self.attention(x, x, x)[0]
        _, (state, _) = self.rnn(x)
        return self.last(state[-1])


@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT, REFERENCE])
def test_all_of_several_tensors_that_are_made_at_once_count(target: TargetSpec) -> None:
    traced = trace(Several().eval(), (1, 8, 8))
    found = activation_moments(traced, place(traced, target, model="several"))
    assert {"first", "max_1", "attention", "rnn", "last"} <= {moment.name for moment in found}
    assert elements(traced.node("max_1")) == 2 * 4 * 8
    assert elements(traced.node("rnn")) == 8 * 4 + 2 * 4


@pytest.mark.parametrize("target", [ONNXRUNTIME, TENSORRT, REFERENCE])
def test_indicators_take_sizes_and_moments(tiny_model: nn.Module, target: TargetSpec) -> None:
    traced = trace(tiny_model, (1, 16, 16))
    placement = place(traced, target, model="tiny")
    layers = tuple(
        LayerIndicators(
            name=layer.name,
            macs=layer.macs,
            num_weights=layer.num_weights,
            weight=(1.0,),
            act=(1.0,),
            act_group=placement.act_group(layer),
        )
        for layer in placement.searched
    )
    found = with_memory(Indicators(model="tiny", bits=(4,), layers=layers), traced, placement)
    assert [layer.act_elements for layer in found.layers] == [X, Y, X]
    assert found.moments == activation_moments(traced, placement)
