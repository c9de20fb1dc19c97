"""Small networks as people write them, untyped, each a situation from a public report. Factories take no arguments."""

# mypy: ignore-errors

import torch
from torch import nn
from torch.nn import functional as F

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


def plain():
    return pre(Plain())


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


def one_out():
    return pre(Plain(1))


def compiled():
    m = plain()
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
