"""Networks as their authors write them: an 8-bit PTQ build gives a file that computes what the network itself does."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import limpq_deploy
from limpq_deploy.model.results import tensors_of

pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written

CHANNELS = 5
"""Of the images: neither grey nor colours."""


class Pyramid(nn.Module):
    """Parts of a tensor and maxima of it feed layers of one kind; a pool of whole images has a BatchNorm behind it; a
    padding is read as codes and as reals; an InstanceNorm keeps no statistics; what leaves is cut at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(CHANNELS, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.ReLU())
        self.near, self.far = nn.Conv2d(8, 8, 1, 2), nn.Conv2d(8, 8, 1, 2)
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.pad, self.last = nn.ReflectionPad2d(1), nn.Conv2d(8, 2, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        y = torch.relu(self.near(x) + self.far(x[:, :, 1:, 1:]))
        y = y * torch.sigmoid(self.whole(y))
        z = self.last(self.pad(y)) + F.interpolate(self.pad(y)[:, :2], size=y.shape[2:], mode="bilinear")
        z = z.squeeze()  # the axis of one image, too
        return z.clamp(0, 0.3), F.hardtanh(z, 0, 0.2)


def test_the_file_computes_what_the_network_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Pyramid().eval(), torch.randn(17, CHANNELS, 8, 8)  # one of them is validated alone
    settings: dict[str, Any] = {"ptq": True, "like": "w8a8", "bits": [8], "task": "none", "engine": False}
    report = limpq_deploy.export(model, images.numpy(), target="onnxruntime", out=tmp_path / "out", **settings)
    found = open_as_written(onnx.load(report.model)).run_all(images.numpy())
    for one, bound, other in zip(tensors_of(model(images)), (0.3, 0.2), found, strict=True):
        assert 0 <= other.min() <= other.max() <= bound + 1e-6
        assert np.corrcoef(one.detach().numpy().ravel(), other.ravel())[0, 1] > 0.99
