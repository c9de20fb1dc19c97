"""Graphs as people write them, each from a public report: changes in place, sums, joins, dropout, reshapes.
Factories take no arguments."""

# mypy: ignore-errors

import torch
from torch import nn
from torch.nn import functional as F

from .case_parts import Head, Plain, cb, pre


class InplaceRes(nn.Module):
    """identity is the tensor that an in-place ReLU changes."""

    def __init__(self, inplace=True):
        super().__init__()
        self.a = cb(3, 16, s=2)
        self.b = cb(16, 16)
        self.c = cb(16, 16)
        self.d = cb(16, 32, s=2)
        self.head = Head(32)
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x):
        x = self.a(x)
        out = self.relu(x)
        out = self.b(out)
        out = self.relu(out)
        out = self.c(out)
        x = out + x
        return self.head(F.relu(self.d(x)))


def inplace_res():
    return pre(InplaceRes())


class FDrop(nn.Module):
    """F.dropout without training=: active in evaluation too."""

    def __init__(self):
        super().__init__()
        self.p = Plain()

    def forward(self, x):
        p = self.p
        x = p.relu(p.a(x))
        x = p.relu(p.b(x))
        x = p.relu(p.c(x))
        x = p.relu(p.d(x))
        x = torch.flatten(p.head.pool(x), 1)
        return p.head.fc(F.dropout(x, 0.5))


def fdrop():
    return pre(FDrop())


class FDropT(FDrop):
    def forward(self, x):
        p = self.p
        x = p.relu(p.a(x))
        x = p.relu(p.b(x))
        x = p.relu(p.c(x))
        x = p.relu(p.d(x))
        x = torch.flatten(p.head.pool(x), 1)
        return p.head.fc(F.dropout(x, 0.5, training=self.training))


def fdrop_t():
    return pre(FDropT())


def one_out():
    return pre(Plain(1))


def alias_module():
    """one module under two names in the state_dict."""

    class R(Plain):
        def __init__(self):
            super().__init__()
            self.backbone = self.b

    return pre(R())


def sumself():
    class R(Plain):
        def forward(self, x):
            x = self.relu(self.a(x))
            x = self.relu(self.b(x))
            x = x + x
            x = self.relu(self.c(x))
            x = self.relu(self.d(x))
            return self.head(x)

    return pre(R())


def concat3():
    class R(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = cb(3, 16, s=2)
            self.b = cb(16, 8)
            self.c = cb(16, 8, 1)
            self.d = cb(32, 32, s=2)
            self.head = Head(32)

        def forward(self, x):
            x = F.relu(self.a(x))
            return self.head(F.relu(self.d(torch.cat([F.relu(self.b(x)), self.c(x), F.max_pool2d(x, 3, 1, 1)], 1))))

    return pre(R())


def clampy():
    class R(Plain):
        def forward(self, x):
            x = self.relu(self.a(x))
            x = self.b(x).clamp(min=0)
            x = self.relu(self.c(x))
            x = self.relu(self.d(x))
            return self.head(x)

    return pre(R())


def norm_inside():
    """the network normalises its own input with buffers."""

    class R(Plain):
        def __init__(self):
            super().__init__()
            self.register_buffer("mu", torch.tensor([0.5, 0.5, 0.5]).view(1, 3, 1, 1))

        def forward(self, x):
            return super().forward(x - self.mu)

    return pre(R())


def perm_input():
    class R(Plain):
        def forward(self, x):
            return super().forward(x.contiguous())

    return pre(R())


def shuffle():
    class R(Plain):
        def forward(self, x):
            x = self.relu(self.a(x))
            n, c, h, w = x.size()
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            x = self.relu(self.b(x))
            x = self.relu(self.c(x))
            x = self.relu(self.d(x))
            return self.head(x)

    return pre(R())


def chunky():
    class R(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = cb(3, 16, s=2)
            self.b = cb(8, 8)
            self.d = cb(16, 32, s=2)
            self.head = Head(32)

        def forward(self, x):
            x = F.relu(self.a(x))
            u, v = x.chunk(2, 1)
            return self.head(F.relu(self.d(torch.cat([u, F.relu(self.b(v))], 1))))

    return pre(R())


class InplaceAddRelu(nn.Module):
    """x += y where `skip` still names x; written for inference."""

    def __init__(self):
        super().__init__()
        self.a = cb(3, 16, s=2)
        self.b = cb(16, 16)
        self.d = cb(32, 32, s=2)
        self.head = Head(32)

    def forward(self, x):
        x = F.relu(self.a(x))
        skip = x
        x += self.b(x)
        return self.head(F.relu(self.d(torch.cat([x, skip], 1))))


def inplace_add_relu():
    return pre(InplaceAddRelu())
