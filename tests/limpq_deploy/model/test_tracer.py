"""Tracing that knows shapes: what a forward may ask of them, and what it is told where it asks for values."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.layers import trace
from limpq_deploy.model.on_meta import OnMeta
from limpq_deploy.model.tracing import symbolic_trace

SHAPE = (4, 6, 6)
Body = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    table: Tensor

    def __init__(self, body: Body) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(2))
        self.linear = nn.Linear(4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.register_buffer("table", torch.randn(1, 4, 1, 1))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(self, x)
        return result


def padded_as_tensorflow(m: Net, x: Tensor) -> Tensor:
    height, _ = x.size()[-2:]
    pad = max((-(height // -4) - 1) * 4 + 3 - height, 0)
    return m.conv(F.pad(x, (pad // 2, pad - pad // 2, int(pad), 0)) if pad > 0 else x)


def asserted(m: Net, x: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    assert height == width, f"{x.shape} is no square"
    torch._assert(height % 2 == 0, f"{height}x{width:d} of {batch}")
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point() or torch.jit.is_scripting():
        raise ValueError("no images")
    return m.conv(x)


def split_as_c2f(m: Net, x: Tensor) -> Tensor:
    parts = list(m.conv(x).chunk(2, 1))
    parts.extend(conv(parts[-1]) for conv in m.convs)
    return torch.cat(parts, 1)


def iterated(m: Net, x: Tensor) -> Tensor:
    total = torch.zeros_like(x[:, :2])
    for part in x.chunk(2, dim=1):
        total = total + part
    first, *others = x.split([1, 3], dim=1)
    values, _ = x.flatten(2).max(dim=2)
    return sum([total, first, *(other.mean(1, keepdim=True) for other in others), values[:, :1, None, None]])  # type: ignore[return-value]


def as_tokens(m: Net, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([m.token.expand(x.size(0), -1, -1), tokens], dim=1)
    batch, length, width = tokens.shape
    q, k, v = m.linear(tokens).reshape(batch, length, 2, 2).unsqueeze(0).expand(3, -1, -1, -1, -1)
    return (q * k + v).reshape(batch * length, width).view(batch, -1, width)[:, 0]


def attended(m: Net, x: Tensor) -> Tensor:
    qkv = m.linear(x.flatten(2).transpose(1, 2)).reshape(len(x), 36, 2, 2).permute(2, 0, 1, 3)
    q, k = qkv
    return q * torch.softmax(k, -1)


def made_for_each_image(m: Net, x: Tensor) -> Tensor:
    hidden = torch.zeros(x.shape[0], *x.shape[1:], device=x.device, dtype=x.dtype)
    return m.conv(x) + hidden + m.table.expand(x.shape[0], -1, 6, 6) + x.new_ones(len(x), 1, 1, 1)


def windowed(m: Net, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // 2, 2, width // 2, 2)
    return x.permute(0, 2, 4, 3, 5, 1).contiguous().view(int(batch * (height // 2) * (width // 2)), 4, channels)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)


@torch.jit.script
def doubled(x: Tensor) -> Tensor:
    return 2 * x


def checkpointed(m: Net, x: Tensor) -> Tensor:
    def both(first: Tensor, *, second: Tensor) -> Tensor:
        return m.conv(first) + second

    x = checkpoint(both, x, second=x, use_reentrant=False)
    x = checkpoint(m.conv, x, use_reentrant=True)
    return checkpoint_sequential(nn.Sequential(m.conv, nn.Tanh()), 2, x, use_reentrant=False)


def made_while_it_runs(m: Net, x: Tensor) -> Tensor:
    x = nn.ReLU(inplace=True)(nn.ReplicationPad2d(1)(m.conv(x)))
    x = nn.Sequential(nn.MaxPool2d(2), nn.Hardswish(), nn.Upsample(scale_factor=2))(x)
    return nn.Softmax(dim=1)(nn.Flatten()(nn.AdaptiveAvgPool2d(1)(nn.LeakyReLU(0.1)(x))))


def with_places(m: Net, x: Tensor) -> Tensor:
    """A table repeated for every image and read twice."""
    rows = torch.linspace(-1, 1, x.shape[2]).view(1, 1, -1, 1).repeat(x.shape[0], 1, 1, x.shape[3])
    columns = rows.transpose(2, 3)
    x = torch.cat([x[:, :2], rows.type_as(x), columns.type_as(x)], 1)
    return m.conv(torch.cat([x[:, :2], torch.sqrt(rows.type_as(x) ** 2 + columns.type_as(x) ** 2), x[:, 2:3]], 1))


def copied_on_the_way(m: Net, x: Tensor) -> Tensor:
    x = m.conv(x).permute(0, 2, 3, 1).contiguous()
    return torch.tanh(x.view(x.size(0), -1, 4)).transpose(1, 2).contiguous().view(x.shape)


FOLLOWED: tuple[Body, ...] = (
    *(padded_as_tensorflow, asserted, split_as_c2f, iterated, as_tokens, attended, made_for_each_image, windowed),
    *(checkpointed, made_while_it_runs, with_places, copied_on_the_way),
    lambda m, x: Swish.apply(m.conv(x)),
    lambda m, x: doubled(m.conv(x)),
    lambda m, x: x.T if x.dim() == 2 else m.conv(x).mT,
    lambda m, x: F.interpolate(m.conv(x), size=tuple(2 * side for side in x.shape[-2:])),
    lambda m, x: m.conv(x) * x.shape[0] + x.shape[0],
    lambda m, x: x if hasattr(x, "tensors") else m.conv(x),
)


@pytest.mark.parametrize("body", FOLLOWED)
def test_what_a_forward_asks_of_shapes_is_answered(body: Body) -> None:
    model = Net(body).eval()
    attributes = set(vars(model))
    traced = symbolic_trace(model, SHAPE)
    assert set(vars(model)) == attributes
    for count in (1, 2, 5):
        images = torch.randn(count, *SHAPE)
        torch.testing.assert_close(traced(images), model(images), rtol=0, atol=0)


def test_a_tensor_of_the_model_s_own_in_the_images_type_is_a_constant() -> None:
    body: Body = lambda m, x: m.conv(x - m.table.to(x)) * torch.ones(1, 4, 1, 1).type_as(x)  # noqa: E731
    model = Net(body).eval()
    traced = symbolic_trace(model, SHAPE)
    images = torch.randn(2, *SHAPE)
    assert torch.equal(traced(images), model(images))
    assert not {"to", "type_as"} & {str(node.target) for node in traced.graph.nodes}


def test_copies_in_another_order_move_codes() -> None:
    traced = trace(Net(copied_on_the_way).eval(), SHAPE)
    images = torch.randn(2, *SHAPE)
    assert torch.equal(traced.graph_module(images), Net(copied_on_the_way).eval()(images))
    assert "float" not in traced.kinds.values()


def test_a_model_that_keeps_tensors_of_an_earlier_call_is_traced() -> None:
    class Kept(Net):
        def __init__(self) -> None:
            super().__init__(lambda m, x: x)
            self.grid = [torch.empty(0)]

        def forward(self, x: Tensor) -> Tensor:
            if self.grid[0].shape[2:4] != x.shape[2:4]:
                self.grid[0] = torch.arange(6.0).view(1, 1, 6, 1).expand(1, 1, 6, 6)
            return self.conv(x) + self.grid[0]

    model, images = Kept().eval(), torch.randn(2, *SHAPE)
    expected = model(images)
    traced = symbolic_trace(model, SHAPE)
    assert torch.equal(traced(images), expected)
    traced.load_state_dict(traced.state_dict())  # which torch refuses of what `expand` gives
    assert not [name for name in vars(model) if name.startswith("_tensor_constant")]


def test_layers_stay_modules_and_sizes_become_numbers() -> None:
    nodes = symbolic_trace(Net(padded_as_tensorflow).eval(), SHAPE).graph.nodes
    assert [(node.op, node.name) for node in nodes] == [
        *(("placeholder", "x"), ("call_function", "pad"), ("call_module", "conv"), ("output", "output"))
    ]


VALUES: tuple[tuple[Body, str], ...] = (
    (lambda m, x: m.conv(x) if x.max() > 0 else x, "branches on the values"),
    (lambda m, x: m.conv(x) if m.conv.bias.sum() > 0 else x, "branches on the values"),
    (lambda m, x: m.conv(x) * float(x.mean()), "reads the values of a tensor (__float__)"),
    (lambda m, x: m.conv(x) * x.mean().item(), "reads the values of a tensor (item)"),
    (lambda m, x: m.conv(x)[x.sum((1, 2, 3)) > 0], "reads the values of a tensor (index)"),
    (lambda m, x: x.flatten()[torch.nonzero(x.flatten())], "reads the values of a tensor (nonzero)"),
    (lambda m, x: m.conv(x) * x.detach().numpy().mean(), "reads the values of a tensor (numpy)"),
    (lambda m, x: m.conv(x) * np.asarray(x).mean(), "reads the values of a tensor (__array__)"),
)


@pytest.mark.parametrize(("body", "sentence"), VALUES)
def test_a_forward_that_reads_values_is_told_its_line(body: Body, sentence: str) -> None:
    with pytest.raises(ModelError) as refused:
        symbolic_trace(Net(body).eval(), SHAPE)
    here = f"(test_tracer.py:{body.__code__.co_firstlineno})"
    assert f"the model cannot be traced: it {sentence}" in str(refused.value)
    assert f"{here}; its forward must not branch on tensor values" in str(refused.value)


def written_into(m: Net, x: Tensor) -> Tensor:
    x[:, torch.tensor([0, 2]), 0] = 0
    return x


def kept_in_a_list(m: Net, x: Tensor) -> Tensor:
    return [nn.BatchNorm2d(4)][0](m.conv(x))


OTHERS: tuple[tuple[Body, int, str], ...] = (
    (lambda m, x: m.conv(x.view(-1, 5)), 0, "does not run on one image of 4x6x6: shape '[-1, 5]' is invalid"),
    (
        lambda m, x: m.conv(x.no_such),  # type: ignore[attr-defined]
        0,
        "cannot be traced: 'Tensor' object has no attribute 'no_such'",
    ),
    (lambda m, x: m.conv(x) if x.shape[0] == 1 else x, 0, "does something else for 1 image than for 3"),
    (lambda m, x: torch.stack([m.conv(one) for one in x]), 0, "does something else for 1 image than for 3"),
    (lambda m, x: m.conv(x.view(1, 4, 6, 6)), 0, "does not run on 3 images at once of 4x6x6"),
    (lambda m, x: x[torch.arange(len(x))], 0, "does something else for 1 image than for 3"),
    (lambda m, x: m.conv(x) * torch.frombuffer(x, dtype=x.dtype), 0, "mend the forward"),
    (lambda m, x: m.conv(x) + next(m.parameters()).sum(), 0, "computes with parameters in a way that no graph"),
    (kept_in_a_list, 1, "calls a BatchNorm2d that is no submodule of the model"),
    (written_into, 1, "it writes into part of a tensor: make the whole one anew"),
)


@pytest.mark.parametrize(("body", "lines", "sentence"), OTHERS)
def test_other_faults_say_what_they_are(body: Body, lines: int, sentence: str) -> None:
    with pytest.raises(ModelError) as refused:
        symbolic_trace(Net(body).eval(), SHAPE)
    assert sentence in str(refused.value)
    assert f"(test_tracer.py:{body.__code__.co_firstlineno + lines})" in str(refused.value)
    assert "branch on tensor values" not in str(refused.value)


def test_python_is_as_it_was_behind_a_trace() -> None:
    import builtins

    before = builtins.isinstance, torch.autograd.Function.__dict__["apply"], torch.jit.ScriptFunction.__call__
    symbolic_trace(Net(FOLLOWED[0]).eval(), SHAPE)
    with pytest.raises(ModelError):
        symbolic_trace(Net(written_into).eval(), SHAPE)
    after = builtins.isinstance, torch.autograd.Function.__dict__["apply"], torch.jit.ScriptFunction.__call__
    assert after == before


def test_torch_computes_shapes_while_isinstance_is_pythons_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    call, seen = OnMeta.call, set()

    def watched(self: OnMeta, *given: Any) -> Any:
        seen.add(builtins.isinstance)
        return call(self, *given)

    monkeypatch.setattr(OnMeta, "call", watched)
    symbolic_trace(Net(iterated).eval(), SHAPE)
    assert seen == {builtins.isinstance}


RECURRENT = """
import torch
from torch import nn
from limpq_deploy.export.graph.from_torch import export_template
from limpq_deploy.model.layers import trace
from limpq_deploy.model.on_meta import OnMeta

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.rnn = nn.Conv2d(3, 4, 3, padding=1), nn.LSTM(4, 5, bidirectional=True)
        self.gru, self.last = nn.GRU(10, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        x = self.conv(x).mean(2).permute(2, 0, 1)
        x, _ = self.gru(self.rnn(x)[0].transpose(0, 1), torch.zeros(1, x.size(1), 4))
        return self.last(x[:, -1])

graph = trace(Net().eval(), (3, 6, 6)).graph_module
print({"LSTM", "GRU"} <= {node.op_type for node in export_template(graph, (3, 6, 6), 20).graph.node})
"""


@pytest.mark.slow  # a process of its own, where torch's compiler was not imported before
def test_recurrences_are_exported_behind_a_trace() -> None:
    done = subprocess.run([sys.executable, "-c", RECURRENT], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "True"


class NamedAsMethods(nn.Module):
    """Submodules whose names are methods of tensors (SqueezeNet's, MobileNet's)."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.clip, self.max = nn.Conv2d(3, 4, 1), nn.Hardtanh(0, 0.5), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.max(self.clip(self.squeeze(x)))


def test_a_submodule_may_be_named_as_a_method() -> None:
    model, images = NamedAsMethods().eval(), torch.randn(2, 3, 8, 8)
    traced = trace(model, (3, 8, 8))
    torch.testing.assert_close(traced.graph_module(images), model(images))
    assert [layer.name for layer in traced.layers] == ["squeeze", "max"]
