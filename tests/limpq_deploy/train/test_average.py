"""A moving average of parameters."""

import pytest
import torch
from torch import nn

from limpq_deploy.train.average import WeightAverage


def test_the_average_follows_the_closed_form_and_starts_fast() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    average = WeightAverage(layer, 0.25)
    expected = 0.0
    for step, value in enumerate((1.0, 3.0, -2.0), 1):
        layer.weight.data.fill_(value)
        average.update()
        decay = min(0.25, (1 + step) / (10 + step))  # 2/11, 3/12, then 0.25
        expected = decay * expected + (1 - decay) * value
    with average.in_place():
        assert layer.weight.item() == pytest.approx(expected, rel=1e-6)
    assert layer.weight.item() == -2.0


def test_an_exception_gives_the_parameters_back() -> None:
    layer = nn.Linear(2, 2)
    average = WeightAverage(layer, 0.9)
    layer.weight.data.fill_(7.0)
    with pytest.raises(RuntimeError), average.in_place():
        raise RuntimeError
    assert (layer.weight == 7).all()


def test_a_restored_average_goes_on_as_if_nothing_had_happened() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 3)
    whole, first = WeightAverage(layer, 0.9), WeightAverage(layer, 0.9)
    layer.weight.data.add_(1)
    whole.update()
    first.update()
    tensors, facts = first.state()
    again = WeightAverage(nn.Linear(3, 3), 0.9)
    again.restore({name: tensor.clone() for name, tensor in tensors.items()}, facts)
    assert again.state()[1] == whole.state()[1] == 1
    assert all(torch.equal(again.state()[0][name], whole.state()[0][name]) for name in tensors)
