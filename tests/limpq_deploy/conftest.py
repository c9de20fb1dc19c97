"""Tiny nets and a tiny data set of real digits, on which the real code runs in a second."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.records.targets import ONNXRUNTIME, TargetSpec
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place

from .train import scenario


class TinyResNet(nn.Module):
    """Five layers for 16x16 digits: a stem, and a block of two convolutions whose shortcut shares their input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(8)
        self.shortcut = nn.Conv2d(6, 8, 1, stride=2, bias=False)
        self.bn4 = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(8, 10)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(images_NCHW)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(x)))))
        out = torch.relu(y + self.bn4(self.shortcut(x)))
        return self.linear(torch.flatten(self.pool(out), 1))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors run faster on one thread, and always in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def few_digits() -> DataSet:
    """256 training, 60 validation and 60 test images of the digits."""
    return scenario.few_digits()


@pytest.fixture
def tiny_model() -> nn.Module:
    """Fresh weights from seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyResNet().eval()


@pytest.fixture
def tiny(tiny_model: nn.Module) -> tuple[TracedModel, Placement]:
    """The tiny net traced and placed for ONNX Runtime."""
    return placed(tiny_model, ONNXRUNTIME)


def placed(model: nn.Module, target: TargetSpec) -> tuple[TracedModel, Placement]:
    traced = trace(model, (1, 16, 16))
    return traced, place(traced, target, model="tiny")
