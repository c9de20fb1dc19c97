"""Tracing: what stops it is named with its line, and timm's modules come apart."""

import importlib.util
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.model.layers import trace
from limpq_deploy.model.node_by_node import does_not_run
from limpq_deploy.model.tracing import symbolic_trace


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            x = -x
        return self.linear(x)


def test_a_branch_on_values_is_named_with_its_line() -> None:
    line = Branching.forward.__code__.co_firstlineno + 1
    with pytest.raises(ModelError, match=rf"cannot be traced: .* \(test_tracing.py:{line}\); its forward must not"):
        symbolic_trace(Branching(), (3,))


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 2, 2, stride=2)
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        return self.linear(x.mean((2, 3)))


def test_a_transposed_convolution_is_a_layer() -> None:
    assert "up" in {layer.name for layer in trace(Upsampling().eval(), (3, 4, 4)).layers}


def test_timms_fused_batchnorm_comes_apart_and_its_linear_is_plain() -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs the extra limpq-deploy[timm]")
    from limpq_deploy.model.zoo import create_model

    model, _ = create_model("timm/mobilenetv2_050", num_classes=7)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                module.running_mean.normal_()
    traced = trace(model.eval(), (3, 32, 32))
    assert len(traced.layers) == 53
    assert all(layer.batchnorm is not None for layer in traced.layers[:-1])
    modules = [traced.graph_module.get_submodule(layer.batchnorm) for layer in traced.layers if layer.batchnorm]
    assert {type(module) for module in modules} == {nn.BatchNorm2d}
    assert type(traced.graph_module.get_submodule("classifier")) is nn.Linear
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=0, atol=0)


class Bodied(nn.Module):
    def __init__(self, body: Callable[["Bodied", Tensor], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = layer or nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4, 2)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.body(self, self.conv(x)).mean((2, 3)))


def by_chance(m: Bodied, x: Tensor) -> Tensor:
    return x if random.random() < 2 else -x


def by_numpys_chance(m: Bodied, x: Tensor) -> Tensor:
    return x if np.random.rand() < 2 else -x


def with_constant_noise(m: Bodied, x: Tensor) -> Tensor:
    return x + torch.rand(4, 2, 2)


def with_noise(m: Bodied, x: Tensor) -> Tensor:
    return x + torch.rand_like(x)


def dropout(m: Bodied, x: Tensor) -> Tensor:
    return F.dropout(x)


def dropout2d(m: Bodied, x: Tensor) -> Tensor:
    return F.dropout2d(x, 0.1)


def torch_dropout(m: Bodied, x: Tensor) -> Tensor:
    return torch.dropout(x, 0.1, True)


def bernoulli(m: Bodied, x: Tensor) -> Tensor:
    return x * torch.bernoulli(torch.sigmoid(x))


def all_dropped(m: Bodied, x: Tensor) -> Tensor:
    return F.dropout(x, p=1.0)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        *((body, "the model's forward draws random numbers") for body in (by_chance, by_numpys_chance)),
        (with_constant_noise, "the model's forward draws random numbers"),
        (with_noise, "rand_like (rand_like){here} draws random numbers"),
        (dropout, "dropout (dropout){here} draws random numbers"),
        (dropout2d, "dropout2d (dropout2d){here} draws random numbers"),
        (torch_dropout, "dropout (dropout){here} draws random numbers"),
        (bernoulli, "bernoulli (bernoulli){here} draws random numbers"),
        (all_dropped, "dropout (dropout){here} is always on"),
    ],
)
def test_chance_in_evaluation_mode_is_refused_with_its_line(
    body: Callable[[Bodied, Tensor], Tensor], sentence: str
) -> None:
    here = f" (test_tracing.py:{body.__code__.co_firstlineno + 1})"
    with pytest.raises(ModelError) as refused:
        trace(Bodied(body).eval(), (3, 4, 4))
    assert sentence.format(here=here) in str(refused.value)
    assert here in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: F.dropout(x, training=m.training),
        lambda m, x: F.dropout2d(x, 0.1, m.training),
        lambda m, x: torch.dropout(x, 0.1, m.training),
        lambda m, x: torch.dropout(x, p=0.1, train=m.training),
        lambda m, x: F.dropout(x, 0.0),
        lambda m, x: x * random.random() if m.training else x,
    ],
)
def test_a_dropout_that_follows_the_mode_does_nothing(body: Callable[[Bodied, Tensor], Tensor]) -> None:
    model = Bodied(body).eval()
    traced = trace(model, (3, 4, 4))
    assert [traced.kinds[name] for name in traced.nodes] == ["input", "layer", "pool", "layer", "output"]
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=0, atol=0)


def automatic(m: Bodied, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return m.conv(x) + x


def mistaken(m: Bodied, x: Tensor) -> Tensor:
    return m.no_such_layer(x)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("body", "lines", "sentence"),
    [
        (automatic, 2, "the model's forward computes under autocast{here}"),
        (mistaken, 1, "cannot be traced: 'Bodied' object has no attribute 'no_such_layer'{here}; mend the forward"),
    ],
)
def test_other_faults_of_a_forward_are_told_with_their_line(
    body: Callable[[Bodied, Tensor], Tensor], lines: int, sentence: str
) -> None:
    here = f" (test_tracing.py:{body.__code__.co_firstlineno + lines})"
    with pytest.raises(ModelError) as refused:
        trace(Bodied(body).eval(), (3, 4, 4))
    assert sentence.format(here=here) in str(refused.value)


class StillOn(nn.Dropout):
    def train(self, mode: bool = True) -> "StillOn":
        super().train(True)
        return self


class StillLearning(nn.Module):
    """A BatchNorm that eval() does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)]
        self.conv, self.norm = self.inner

    def train(self, mode: bool = True) -> "StillLearning":
        super().train(True)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def test_modules_that_eval_does_not_reach_are_refused() -> None:
    with pytest.raises(ModelError, match="draws random numbers in evaluation mode"):
        trace(Bodied(lambda m, x: x, nn.Sequential(nn.Conv2d(3, 4, 3), StillOn())).eval(), (3, 4, 4))
    with pytest.raises(ModelError, match=r"conv.norm .* changes its own parameters or buffers in evaluation mode"):
        trace(Bodied(lambda m, x: x, StillLearning()).eval(), (3, 4, 4))


class Renamed(nn.Conv2d):
    """Nothing changed."""

    def __init__(self, channels: int, outputs: int, size: int) -> None:
        super().__init__(channels, outputs, size)

    def extra_repr(self) -> str:
        return "mine"


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias)


class Inside(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, 2 * weight, bias)


class Computed(nn.Conv2d):
    @property
    def bias(self) -> Tensor:
        return torch.ones(4)

    @bias.setter
    def bias(self, value: Tensor | None) -> None: ...

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if name != "bias":
            super().register_parameter(name, param)


def test_a_class_that_changes_nothing_of_torchs_is_torchs() -> None:
    model = Bodied(lambda m, x: x, Renamed(3, 4, 3)).eval()
    traced = trace(model, (3, 4, 4))
    layer = traced.graph_module.get_submodule("conv")
    assert type(layer) is nn.Conv2d
    assert layer.weight is model.conv.weight
    assert type(model.conv) is Renamed
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(traced.graph_module(images), model(images), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [Standardised, Inside, Computed])
def test_a_class_that_computes_something_else_computes_it(kind: type[nn.Conv2d]) -> None:
    model = Bodied(lambda m, x: x, kind(3, 4, 3)).eval()
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(trace(model, (3, 4, 4)).graph_module(images), model(images))


def test_any_results_are_traced_and_logits_are_one_tensor() -> None:
    class Two(Bodied):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x), x  # type: ignore[return-value]

    class Named(Bodied):
        def forward(self, x: Tensor) -> Tensor:
            return {"logits": super().forward(x)}  # type: ignore[return-value]

    for several, kind in ((Two, "tuple"), (Named, "dict")):
        model = several(lambda m, x: x).eval()
        traced = trace(model, (3, 4, 4))
        assert type(traced.graph_module(torch.zeros(1, 3, 4, 4))) is type(model(torch.zeros(1, 3, 4, 4)))
        with pytest.raises(ModelError, match=f"the model returns a {kind} in evaluation mode; expected one tensor"):
            _ = traced.outputs


def test_a_draw_behind_a_call_has_the_line_that_goes_on_after_it() -> None:
    def called(x: Tensor) -> Tensor:
        return x.relu()

    def body(m: nn.Module, x: Tensor) -> Tensor:
        return called(x) * torch.bernoulli(torch.full((1, 4, 1, 1), 0.9))

    line = body.__code__.co_firstlineno + 1
    with pytest.raises(ModelError, match=rf"draws random numbers in evaluation mode, too \(test_tracing.py:{line}\)"):
        trace(Bodied(body).eval(), (3, 4, 4))


def test_a_forward_for_one_image_only_is_told() -> None:
    with pytest.raises(ModelError, match=r"does not run on 3 images at once of 3x4x4: .* \(test_tracing.py"):
        trace(Bodied(lambda m, x: x.view(1, 4, 2, 2)).eval(), (3, 4, 4))


def test_arguments_beside_the_images_have_their_defaults() -> None:
    class WithLoss(Bodied):
        def forward(self, x: Tensor, targets: Tensor | None = None, **_: Any) -> Tensor:
            logits: Tensor = super().forward(x)
            return logits if targets is None else F.cross_entropy(logits, targets)

    class Star(Bodied):
        def forward(self, *images: Tensor) -> Tensor:
            return super().forward(images[0])

    class Needed(Bodied):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x * mask)

    class Margin(Bodied):
        """Labels do not run as images do."""

        def forward(self, x: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
            return F.one_hot(label.view(-1), 4) * super().forward(x)

    images = torch.randn(2, 3, 4, 4)
    for kind, name in ((WithLoss, "x"), (Star, "images")):
        model = kind(lambda m, x: x).eval()
        traced = trace(model, (3, 4, 4))
        assert [node.name for node in traced.nodes.values() if node.op == "placeholder"] == [name]
        torch.testing.assert_close(traced.graph_module(images), model(images), rtol=0, atol=0)
    with pytest.raises(ModelError, match=r"takes 2 tensors \(x, mask\); expected one, the images"):
        trace(Needed(lambda m, x: x).eval(), (3, 4, 4))
    with pytest.raises(ModelError, match=r"takes 2 tensors \(x, label\); expected one, the images"):
        trace(Margin(lambda m, x: x).eval(), (3, 4, 4))


def test_a_forward_that_asks_for_cuda_is_told_what_to_ask() -> None:
    error = does_not_run(RuntimeError("Torch not compiled with CUDA enabled"), 1, (3, 4, 4), " (net.py:3)")
    assert str(error).endswith(
        "(net.py:3); models are taken on the CPU: let its forward ask the images where they are, "
        "as in x.to(images.device)"
    )


def test_what_a_forward_remembers_of_one_call_is_not_there_in_the_next() -> None:
    class Remembering(Bodied):
        def __init__(self) -> None:
            super().__init__(lambda m, x: x)
            self.tables: dict[str, Tensor] = {}
            self.bias = nn.Parameter(torch.randn(4))
            self.places = torch.zeros(0)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            if "cpu" not in self.tables:
                self.tables["cpu"] = self.bias[torch.tensor([3, 2, 1, 0])]
            if len(self.places) != x.shape[2]:
                self.places = torch.arange(x.shape[2]) * 0.1
            return (x + self.places + self.tables["cpu"][:, None, None]).mean((2, 3))

    model = Remembering().eval()
    traced = trace(model, (3, 4, 4))
    assert model.tables == {}
    assert len(model.places) == 0
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(traced.graph_module(images), model(images))


def test_a_compiled_forward_is_told() -> None:
    class Fast(Bodied):
        pass

    Fast.forward = torch.compile(Bodied.forward)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"dynamo-optimized function.*; take torch.compile off its forward"):
        trace(Fast(lambda m, x: x).eval(), (3, 4, 4))


class Written(nn.Module):
    """``written``: what its forward makes of the maps of a convolution."""

    def __init__(self, written: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.written = written

    def forward(self, x: Tensor) -> Tensor:
        return self.written(self.conv(x))


@pytest.mark.parametrize(
    "written",
    [
        lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(),
        lambda x: torch.squeeze(x.amax((2, 3), keepdim=True)).squeeze(),
        lambda x: x.mean(1, keepdim=True).squeeze(),
    ],
)
def test_a_squeeze_without_an_axis_leaves_that_of_the_images(written: Callable[[Tensor], Tensor]) -> None:
    model, images = Written(written), torch.randn(3, 3, 4, 4)
    graph = symbolic_trace(model, (3, 4, 4))
    torch.testing.assert_close(graph(images), model(images))
    torch.testing.assert_close(graph(images[:1]), model(images[:1])[None])


def test_numbers_of_numpy_are_pythons() -> None:
    model, images = (
        Written(lambda x: x[:, : np.int64(2)] * np.float64(2) - np.log10(np.float32(3))),
        torch.ones(2, 3, 1, 1),
    )
    torch.testing.assert_close(symbolic_trace(model, (3, 1, 1))(images), model(images))


class Parts(nn.Module):
    """``forwards``: what it computes with its parts."""

    def __init__(self, forwards: Callable[["Parts", Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.RReLU(0.1, 0.3), nn.Conv2d(4, 4, 1), nn.ReLU())
        self.wide = nn.Conv2d(8, 4, 1)
        self.lone = nn.Parameter(torch.randn(4))
        self.forwards = forwards

    def forward(self, x: Tensor) -> Tensor:
        return self.forwards(self, x)


def with_another_way(m: Parts, x: Tensor) -> Tensor:
    try:
        return m.wide(m.body(x))
    except RuntimeError:
        return m.body(x)


@pytest.mark.parametrize(
    "forwards",
    [
        lambda m, x: m.body(x),
        lambda m, x: F.rrelu(m.body[2:](m.body[:2](x)), 0.2, 0.4),
        lambda m, x: F.rrelu(y := m.body[0](x), 0.2, 0.4, inplace=True) + y,
        lambda m, x: nn.Sequential(*list(m.body.children())[:-1])(x),
        lambda m, x: F.linear(m.body(x).permute(0, 2, 3, 1), m.lone),
        with_another_way,
    ],
)
def test_what_a_forward_does_with_its_parts_is_followed(forwards: Callable[[Parts, Tensor], Tensor]) -> None:
    model, images = Parts(forwards).eval(), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(trace(model, (3, 4, 4)).graph_module(images), model(images))
