"""Layers and images as people have them, each from a public report: paddings, pools, dilations, odd sizes.
Factories take no arguments."""

# mypy: ignore-errors

from torch import nn
from torch.nn import functional as F

from .case_parts import Head, Plain, cb, pre


def plain():
    return pre(Plain())


def pad_reflect():
    class R(Plain):
        def __init__(self):
            super().__init__()
            self.b[0].padding = (0, 0)

        def forward(self, x):
            x = self.relu(self.a(x))
            x = F.pad(x, (1, 1, 1, 1), mode="reflect")
            x = self.relu(self.b(x))
            x = self.relu(self.c(x))
            x = self.relu(self.d(x))
            return self.head(x)

    return pre(R())


def pad_replicate():
    class R(Plain):
        def __init__(self):
            super().__init__()
            self.b[0].padding = (0, 0)

        def forward(self, x):
            x = self.relu(self.a(x))
            x = F.pad(x, (1, 1, 1, 1), "replicate")
            x = self.relu(self.b(x))
            x = self.relu(self.c(x))
            x = self.relu(self.d(x))
            return self.head(x)

    return pre(R())


def dil():
    class R(Plain):
        def __init__(self):
            super().__init__()
            self.b = nn.Sequential(nn.Conv2d(16, 16, 3, padding=2, dilation=2, bias=True), nn.BatchNorm2d(16, eps=1e-2))

    return pre(R())


def dwise():
    class R(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = cb(3, 16, s=2)
            self.e = cb(16, 48, 1)
            self.dw = cb(48, 48, 3, 2, 48)
            self.p = cb(48, 24, 1)
            self.q = cb(24, 24, 1)
            self.head = Head(24)
            self.r = nn.ReLU6()

        def forward(self, x):
            x = self.r(self.a(x))
            x = self.r(self.e(x))
            x = self.r(self.dw(x))
            x = self.p(x)
            x = x + self.q(x)
            return self.head(F.relu(x))

    return pre(R())


def oddimg():
    return pre(Plain(), height=37, width=51)


def resize_crop():
    return pre(Plain(), resize=40)


def maxpool_ceil():
    class R(Plain):
        def __init__(self):
            super().__init__()
            self.mp = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)

        def forward(self, x):
            x = self.mp(self.relu(self.a(x)))
            x = self.relu(self.b(x))
            x = self.relu(self.c(x))
            x = self.relu(self.d(x))
            return self.head(x)

    return pre(R())


def maxpool_signed():
    """max pool with padding on a tensor that has negative values."""

    class R(Plain):
        def __init__(self):
            super().__init__()
            self.mp = nn.MaxPool2d(3, 2, padding=1)

        def forward(self, x):
            x = self.mp(self.a(x))
            x = self.relu(self.b(x))
            x = self.relu(self.c(x))
            x = self.relu(self.d(x))
            return self.head(x)

    return pre(R())


def bnlinear():
    class R(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = cb(3, 16, s=2)
            self.b = cb(16, 32, s=2)
            self.f1 = nn.Linear(32, 32)
            self.bn = nn.BatchNorm1d(32)
            self.f2 = nn.Linear(32, 3)
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x):
            x = self.pool(F.relu(self.b(F.relu(self.a(x))))).flatten(1)
            return self.f2(F.relu(self.bn(self.f1(x))))

    return pre(R())
