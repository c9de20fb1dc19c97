import dataclasses

import pytest
import torch
from torch import Tensor, nn

from limpq_deploy.calibration.datasets import open_dataset
from limpq_deploy.model.layers import trace
from limpq_deploy.model.zoo import create_model
from limpq_deploy.train.accuracy import top1
from limpq_deploy.train.float_training import train_float, trainable
from limpq_deploy.train.settings import float_settings


def test_the_default_model_reaches_97_percent_on_digits() -> None:
    """The default build's own settings, with a quarter of its steps."""
    digits = open_dataset("digits")
    settings = dataclasses.replace(float_settings(len(digits.split("train"))), steps=75)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _ = create_model("resnet8")
    training = train_float(model, digits, settings=settings, seed=0)
    assert training.history.images == 75 * 64
    assert top1(model, digits.split("test")) >= 97


class Overwriting(nn.Module):
    """``x += conv(x)``: the convolution's gradient needs the old x."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        x += self.conv(x)
        return self.linear(x.mean((2, 3)))


class WithSides(Overwriting):
    """Another result in training."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(self.conv(x).mean((2, 3)))
        return (logits, x) if self.training else logits  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [Overwriting, WithSides])
def test_a_model_that_cannot_be_trained_as_written_is_trained_by_its_graph(kind: type[nn.Module]) -> None:
    model = kind().eval()
    assert isinstance(model, Overwriting)
    graph_module = trace(model, (3, 4, 4)).graph_module
    found = trainable(model, lambda: graph_module, (3, 4, 4))
    assert found is graph_module
    found.train()(torch.randn(2, 3, 4, 4)).sum().backward()
    assert model.conv.weight.grad is not None, "one weight under both"


def test_a_model_that_can_be_trained_is_trained_itself_and_not_touched() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(64, 2)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert trainable(model, nn.Identity, (3, 4, 4)) is model
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training
