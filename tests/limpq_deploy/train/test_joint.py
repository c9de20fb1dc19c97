import dataclasses
import logging

import numpy as np
import pytest
import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import ONNXRUNTIME, REFERENCE
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.policy.indicators import Indicators, LayerIndicators
from limpq_deploy.quant.quantized_model import QuantizedModel, joint_model
from limpq_deploy.train.joint import joint_passes, movements, random_widths, train_indicators
from limpq_deploy.train.settings import JointSettings

Tiny = tuple[TracedModel, Placement]
BITS = (2, 3, 6)
SHORT = JointSettings(
    steps=12,
    batch_size=32,
    learning_rate=0.01,
    scale_learning_rate=0.02,
    warmup_steps=1,
    weight_decay=2.5e-5,
    label_smoothing=0.1,
    first_images=64,
)


def learn(
    tiny: Tiny, data: DataSet, bits: tuple[int, ...] = BITS, **changes: float
) -> tuple[Indicators, QuantizedModel]:
    return train_indicators(*tiny, data, bits=bits, settings=dataclasses.replace(SHORT, **changes), seed=0)  # type: ignore[arg-type]


def without_time(indicators: Indicators) -> Indicators:
    return dataclasses.replace(indicators, source={**indicators.source, "seconds": 0})


def test_scales_really_learn_and_the_record_says_how_far(tiny: Tiny, few_digits: DataSet) -> None:
    indicators, model = learn(tiny, few_digits)
    source = indicators.source
    assert source["median_act_movement"] > 0.02
    assert source["median_weight_movement"] > 0.02
    assert source["warnings"] == []
    assert (source["steps"], source["images"], source["seed"]) == (12, 12 * 32, 0)
    assert list(source["loss"]) == ["2", "3", "6", "random"]
    moved = [
        abs(now / first - 1)
        for layer in indicators.layers
        for now, first in zip(layer.act, layer.act_init or (), strict=True)
    ]
    assert np.mean(moved) > 0.02
    assert indicators.layers[0].weight[1] == model.quant_layer("conv2").scales.scale(1).item()


def test_scales_that_hardly_move_are_a_warning(
    tiny: Tiny, few_digits: DataSet, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        indicators, _ = learn(tiny, few_digits, steps=2, scale_learning_rate=1e-5)
    (warning,) = indicators.source["warnings"]
    assert "the median activation scale moved 0.00 %" in warning
    assert warning in caplog.text


def test_one_seed_gives_one_set_of_indicators(tiny: Tiny, few_digits: DataSet) -> None:
    first, second = (without_time(learn(tiny, few_digits, steps=3)[0]) for _ in range(2))
    assert first == second


def test_indicators_list_layers_groups_and_pinned_layers_and_survive_json(tiny: Tiny, few_digits: DataSet) -> None:
    indicators, _ = learn(tiny, few_digits, steps=2)
    assert [layer.name for layer in indicators.layers] == ["conv2", "conv3", "shortcut"]
    assert [layer.act_group for layer in indicators.layers] == ["relu", None, "relu"]
    assert indicators.layers[0].act == indicators.layers[2].act
    assert [(layer.name, layer.weight_bits, layer.act_bits) for layer in indicators.pinned] == [
        ("conv1", 8, 8),
        ("linear", 8, 8),
    ]
    assert from_json(Indicators, to_json(indicators), "here") == dataclasses.replace(indicators)
    assert [layer.kind for layer in indicators.layers] == ["conv"] * len(indicators.layers)
    assert indicators.edges is not None
    assert [(edge.producer, edge.consumer) for edge in indicators.edges][:2] == [("conv1", "conv2"), ("conv2", "conv3")]


def test_the_reference_target_ties_nothing(tiny_model: nn.Module, few_digits: DataSet) -> None:
    traced = trace(tiny_model, (1, 16, 16))
    indicators, _ = learn((traced, place(traced, REFERENCE, model="tiny")), few_digits, steps=2)
    assert all(layer.act_group is None for layer in indicators.layers)


def test_widths_are_drawn_once_for_layers_that_share_a_quantizer(tiny: Tiny) -> None:
    rng = np.random.default_rng(0)
    draws = [random_widths(tiny[1], BITS, rng) for _ in range(200)]
    assert all(draw["conv2"] == draw["shortcut"] for draw in draws)
    assert any(draw["conv2"] != draw["conv3"] for draw in draws)
    assert {draw["conv3"] for draw in draws} == {(bits, bits) for bits in BITS}


def test_where_a_requantizer_does_nothing_the_parents_scale_is_the_indicator(few_digits: DataSet) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(1, 4, 3, stride=4, padding=1)
            self.b = nn.Conv2d(4, 4, 3, padding=1)
            self.c = nn.Linear(4, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.a(x))
            return self.c(torch.relu(self.b(x) + x).mean((2, 3)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        traced = trace(Residual(), (1, 16, 16))
    placement = place(traced, ONNXRUNTIME, model="residual")
    assert placement.quantizer("relu_layers").parent == "relu"
    indicators, model = learn((traced, placement), few_digits, bits=(4, 8), steps=3)
    layer = indicators.layers[0]
    parent = model.act_quantizer("relu").scales
    assert layer.act == (model.act_quantizer("relu_layers").scales.scale(0).item(), parent.scale(0).item())
    assert layer.act_init is not None
    assert layer.act_init[1] == parent.first[0].item()


def test_frozen_weights_stay_and_scales_and_batchnorm_learn(tiny: Tiny, few_digits: DataSet) -> None:
    indicators, model = learn(tiny, few_digits, freeze_weights=True)
    before = tiny[0].graph_module
    for layer in tiny[1].layers:
        found = model.quant_layer(layer.name)
        assert torch.equal(found.weight, before.get_submodule(layer.name).weight)  # type: ignore[arg-type]
        assert found.weight.requires_grad
    assert indicators.source["median_weight_movement"] > 0.02
    assert not torch.equal(model.batchnorm("bn2").weight[0], before.get_submodule("bn2").weight)  # type: ignore[arg-type]


def test_in_place_distillation_starts_with_the_highest_width_whose_logits_teach_the_rest(
    tiny: Tiny, few_digits: DataSet
) -> None:
    model = joint_model(*tiny, BITS)
    passes = joint_passes(model, BITS, np.random.default_rng(0), dataclasses.replace(SHORT, inplace_distill=True))
    assert [one.name for one in passes] == ["6", "3", "2", "random"]
    images, labels = torch.zeros(2, 1, 16, 16), torch.tensor([0, 1])
    teacher, student = torch.randn(2, 10), torch.randn(2, 10, requires_grad=True)
    losses = [one.loss for one in passes]
    assert losses[0] is not None
    assert losses[1] is not None
    smoothed = nn.functional.cross_entropy(teacher, labels, label_smoothing=SHORT.label_smoothing)
    assert losses[0](teacher, labels, images).item() == pytest.approx(smoothed.item())
    losses[1](student, labels, images).backward()
    expected = (student.softmax(1) - teacher.softmax(1)) / 2
    torch.testing.assert_close(student.grad, expected.detach())

    indicators, _ = learn(tiny, few_digits, inplace_distill=True)
    assert list(indicators.source["loss"]) == ["6", "3", "2", "random"]
    assert indicators.source["median_act_movement"] > 0.02


def test_movement_is_relative_looks_at_the_middle_and_counts_a_shared_scale_once() -> None:
    def layer(name: str, act: tuple[float, ...], group: str | None = None) -> LayerIndicators:
        first = (1.0, 10.0, 0.1)
        return LayerIndicators(
            name=name,
            macs=1,
            num_weights=1,
            weight=(1.1, 5.0, 0.1),
            act=act,
            weight_init=first,
            act_init=first,
            act_group=group,
        )

    shared = (3.0, 30.0, 0.3)
    layers = (layer("a", shared, "g"), layer("b", shared, "g"), layer("c", shared, "g"), layer("d", (1.0, 10.0, 0.1)))
    both = movements(Indicators(model="m", bits=(2, 3, 4), layers=layers))
    assert both == pytest.approx((0.1, 1.0))
    narrowed = dataclasses.replace(layers[0], pairs=((3, 2),))
    assert movements(Indicators(model="m", bits=(2, 3, 4), layers=(narrowed,))) == pytest.approx((0.5, 2.0))


def test_with_one_activation_width_weights_alone_are_learned_and_searched(
    tiny_model: nn.Module, few_digits: DataSet
) -> None:
    traced = trace(tiny_model, (1, 16, 16))
    placement = place(traced, ONNXRUNTIME, model="tiny", act_bits=6)
    indicators, model = learn((traced, placement), few_digits)
    for layer in indicators.layers:
        assert layer.pairs == ((2, 6), (3, 6), (6, 6))
        assert layer.act[0] == pytest.approx(16 * layer.act[2])
        assert layer.act_init is not None
        assert layer.act[2] != pytest.approx(layer.act_init[2], rel=1e-3)
    assert model.act_quantizer(placement.layer("conv3").input).bits == (6,)
    assert indicators.source["warnings"] == [] or "settled" in indicators.source["warnings"][0]
    draws = [random_widths(placement, BITS, np.random.default_rng(seed)) for seed in range(20)]
    assert any(draw["conv2"] != draw["shortcut"] for draw in draws)


@pytest.mark.parametrize("bits", [(), (4, 2), (2, 2), (1, 4), (4, 9)])
def test_candidate_bits_that_make_no_sense_are_refused(tiny: Tiny, few_digits: DataSet, bits: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match="expected ascending widths from 2 to 8"):
        learn(tiny, few_digits, bits=bits)
