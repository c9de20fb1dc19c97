"""A network and images as a user holds them, and a small finished build."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import limpq_deploy

GOLDEN = Path(__file__).parents[2] / "golden"
BRIEF = {"float_steps": 2, "joint_steps": 2, "finetune_steps": 2, "batch_size": 16}


class Net(nn.Module):
    """Three convolutions and a linear layer, of which the middle ones are searched."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        found: torch.Tensor = self.fc(x.mean((2, 3)))
        return found


def pictures(count: int = 96, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Floats [N, 1, 16, 16] whose brightness tells the class, and the classes."""
    labels = np.arange(count) % classes
    noise = np.random.default_rng(0).normal(0, 0.1, (count, 1, 16, 16))
    return (noise + labels[:, None, None, None]).astype(np.float32), labels


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    images, labels = pictures()
    return DataLoader(TensorDataset(torch.from_numpy(images), torch.from_numpy(labels)), batch_size=16)


@pytest.fixture(scope="session")
def tiny_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage of the default build, with hardly any training."""
    folder = tmp_path_factory.mktemp("built") / "limpq-build"
    limpq_deploy.build(out=folder, bits=[4, 8], latency_seconds=0.05, training=BRIEF)
    return folder


@pytest.fixture
def workplace(tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with ``limpq-build`` and ``indicators.json`` in it."""
    shutil.copytree(tiny_build, tmp_path / "limpq-build")
    shutil.copy(GOLDEN / "resnet50_official_macs.indicators.json", tmp_path / "indicators.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path
