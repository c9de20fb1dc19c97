"""Modules as people keep them, each from a public report: hooks, shared and frozen parameters, types, wrappers.
Factories take no arguments."""

# mypy: ignore-errors

import torch
from torch import nn
from torch.nn import functional as F

from .case_parts import Head, Plain, cb, pre


def pruned():
    from torch.nn.utils import prune

    m = Plain()
    for mod in m.modules():
        if isinstance(mod, nn.Conv2d):
            prune.l1_unstructured(mod, "weight", amount=0.5)
    return pre(m)


def wnorm_new():
    m = Plain()
    torch.nn.utils.parametrizations.weight_norm(m.b[0])
    return pre(m)


def hook_scale():
    m = Plain()
    m.c[0].register_forward_hook(lambda mod, i, o: o * 0.25)
    return pre(m)


def tied():
    m = Plain()
    m.d2 = None

    class T(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = cb(3, 16, s=2)
            self.b = cb(16, 16)
            self.b2 = cb(16, 16)
            self.b2[0].weight = self.b[0].weight
            self.head = Head(16)

        def forward(self, x):
            return self.head(F.relu(self.b2(F.relu(self.b(F.relu(self.a(x)))))))

    return pre(T())


def compiled():
    m = pre(Plain())
    c = torch.compile(m)
    c.preprocess = m.preprocess
    return c


def scripted():
    return torch.jit.script(Plain())


def half_model():
    return pre(Plain().half())


def bf16_model():
    return pre(Plain().bfloat16())


def chlast():
    return pre(Plain().to(memory_format=torch.channels_last))


def frozen_model():
    m = Plain()
    for p in m.parameters():
        p.requires_grad_(False)
    return pre(m)


@torch.inference_mode()
def inference_model():
    return pre(Plain())


def shared_bn():
    class R(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 16, 3, 2, 1)
            self.b = nn.Conv2d(16, 16, 3, 1, 1)
            self.bn = nn.BatchNorm2d(16)
            self.head = Head(16)

        def forward(self, x):
            return self.head(F.relu(self.bn(self.b(F.relu(self.bn(self.a(x)))))))

    return pre(R())


def hardtanh_hook():
    class R(Plain):
        def __init__(self):
            super().__init__()
            self.act = nn.Hardtanh(0, 4)

        def forward(self, x):
            x = self.act(self.a(x))
            x = self.relu(self.b(x))
            x = self.relu(self.c(x))
            x = self.relu(self.d(x))
            return self.head(x)

    return pre(R())
