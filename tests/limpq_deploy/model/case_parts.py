"""What cases of given models are made of, untyped, as people write it."""

# mypy: ignore-errors

import torch
from torch import nn

from limpq_deploy.calibration.datasets import Preprocess

PRE = {"height": 32, "width": 32, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def pre(m, **k):
    m.preprocess = Preprocess(**{**PRE, **k})
    return m


def cb(i, o, k=3, s=1, g=1, bias=False, **kw):
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=bias, **kw), nn.BatchNorm2d(o))


class Head(nn.Module):
    def __init__(self, c, n=3):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c, n)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(x), 1))


class Plain(nn.Module):
    def __init__(self, n=3):
        super().__init__()
        self.a = cb(3, 16, s=2)
        self.b = cb(16, 16)
        self.c = cb(16, 32, s=2)
        self.d = cb(32, 32)
        self.head = Head(32, n)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.a(x))
        x = self.relu(self.b(x))
        x = self.relu(self.c(x))
        x = self.relu(self.d(x))
        return self.head(x)
