"""With scales that are powers of two a trained model and its exported file are equal in every code, layer by layer and
from the images on, in both dialects."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from torch import Tensor, nn  # noqa: E402

from limpq_deploy.calibration.errors import ModelError  # noqa: E402
from limpq_deploy.export.graph.folding import IntegerLayer  # noqa: E402
from limpq_deploy.export.qdq.build import build_qdq  # noqa: E402
from limpq_deploy.export.records.placement import BitPair  # noqa: E402
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT, TENSORRT_RTX, TargetSpec  # noqa: E402
from limpq_deploy.export.reference.executor import IntegerReference  # noqa: E402
from limpq_deploy.export.reference.parity import compare_runtime  # noqa: E402
from limpq_deploy.export.runtimes import runtime_named  # noqa: E402
from limpq_deploy.model.float_template import float_template  # noqa: E402
from limpq_deploy.model.layers import TracedModel, trace  # noqa: E402
from limpq_deploy.model.place import place  # noqa: E402
from limpq_deploy.quant.fold_model import beyond_float32, integer_model  # noqa: E402
from limpq_deploy.quant.folded_forward import folded_forward  # noqa: E402
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy  # noqa: E402
from limpq_deploy.quant.torch_parity import Fed, TrainedParity, compare_trained  # noqa: E402

SHAPE = (3, 14, 14)
STEPS = ("conv", "strided", "depthwise", "add", "concat", "relu6", "maxpool", "swish", "excite")


class Block(nn.Module):
    """One step of a random net of 8 channels."""

    def __init__(self, step: str, random: np.random.Generator) -> None:
        super().__init__()
        self.step = step
        groups = 8 if step == "depthwise" else 1
        stride = 2 if step == "strided" else 1
        kernel = 1 if step in ("concat", "excite") else 3
        self.conv = nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=groups, bias=step == "excite")
        norm = nn.BatchNorm2d(8)
        with torch.no_grad():
            norm.weight.copy_(torch.from_numpy(random.normal(size=8) * (np.arange(8) > 0)))
            norm.bias.copy_(torch.from_numpy(random.normal(0, 0.3, 8)))
        self.norm = nn.Identity() if step == "excite" else norm
        self.other = nn.Conv2d(16, 8, 1) if step == "concat" else nn.Identity()
        acts = {"relu6": nn.ReLU6(), "swish": nn.SiLU(), "add": nn.Identity(), "concat": nn.Identity()}
        self.act = acts.get(step, nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1) if step == "maxpool" else nn.Identity()
        self.mean, self.gate = nn.AdaptiveAvgPool2d(1), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        if self.step == "excite":
            return x * self.gate(self.conv(self.mean(x)))
        y = self.act(self.norm(self.conv(x)))
        if self.step == "add":
            return torch.relu(x + y)
        return torch.relu(self.other(torch.cat([x, y], 1))) if self.step == "concat" else self.pool(y)


class RandomNet(nn.Module):
    """A stem, some blocks, a mean over 49 pixels or fewer, a linear layer."""

    def __init__(self, steps: list[str], seed: int) -> None:
        super().__init__()
        random = np.random.default_rng(seed)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(*(Block(step, random) for step in steps))
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.blocks(torch.relu(self.norm(self.stem(x)))).mean((2, 3)))


def quantized(net: nn.Module, target: TargetSpec, seed: int) -> tuple[TracedModel, QuantizedModel, dict[str, BitPair]]:
    """At random bits, with BatchNorm statistics and scales from random images."""
    random = np.random.default_rng(seed)
    images = torch.from_numpy(random.normal(0, 1, (16, *SHAPE)).astype(np.float32))
    with torch.no_grad():
        for _ in range(20):
            net.train()(images)
    traced = trace(net.eval(), SHAPE)
    placement = place(traced, target, model="random")
    acts = {layer.input: int(random.integers(2, 9)) for layer in placement.searched}
    policy = {layer.name: (int(random.integers(2, 9)), acts[layer.input]) for layer in placement.searched}
    model = model_of_policy(traced, placement, policy, scales="pow2")
    model.initialise_scales(images)
    model.set_bits(policy)
    return traced, model.eval(), policy


def file_of(traced: TracedModel, model: QuantizedModel, policy: dict[str, BitPair]) -> onnx.ModelProto:
    placement = model.placement
    layers, acts = integer_model(model, policy)
    return build_qdq(float_template(traced, placement), placement, layers, acts, {})


def batches(seed: int) -> list[Any]:
    random = np.random.default_rng(seed)
    return [random.normal(0, spread, (6, *SHAPE)).astype(np.float32) for spread in (1, 100)]


def require_equal(found: TrainedParity) -> None:
    for parts in (found.faithful, found.end_to_end):
        assert [(part.tensor, part.mismatches) for part in parts if part.mismatches] == []
        assert sum(part.elements for part in parts) > 0
    assert found.logits_equal
    assert found.agreement == 1.0


FEW = settings(
    max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FEW
@given(seed=st.integers(0, 1000), steps=st.lists(st.sampled_from(STEPS), min_size=2, max_size=5))
def test_a_random_net_its_integers_and_onnx_runtime_are_equal_in_every_code(
    tmp_path: Path, seed: int, steps: list[str]
) -> None:
    torch.manual_seed(seed)
    traced, model, policy = quantized(RandomNet(steps, seed), ONNXRUNTIME, seed)
    path = tmp_path / "model.onnx"
    onnx.save(file_of(traced, model, policy), path)
    assert compare_runtime(path, batches(seed), runtime_named("onnxruntime"), threads=1).exact
    reference, fed = IntegerReference(path), []
    for images in batches(seed):
        logits, codes = reference.run(images, keep=reference.code_tensors)
        fed.append(Fed(images, codes, logits))
    layers, acts = integer_model(model, policy)
    assert beyond_float32(model.placement, layers, acts) == {}
    require_equal(compare_trained(traced, model, layers, acts, fed))


@pytest.mark.parametrize("target", [TENSORRT, TENSORRT_RTX], ids=lambda target: target.name)
@FEW
@given(
    seed=st.integers(0, 1000),
    steps=st.lists(
        st.sampled_from([step for step in STEPS if step not in ("swish", "excite")]), min_size=2, max_size=5
    ),
)
def test_a_random_net_and_tensorrts_file_as_written_are_equal_in_every_code(
    executed: Any, target: TargetSpec, seed: int, steps: list[str]
) -> None:
    """Gates stay in float there, each by the arithmetic of who computes it. That of RTX rounds sums to float16."""
    torch.manual_seed(seed)
    traced, model, policy = quantized(RandomNet(steps, seed), target, seed)
    file = file_of(traced, model, policy)
    fed = []
    for images in batches(seed):
        logits, codes = executed(file, images)
        fed.append(Fed(images, codes, logits))
    layers, acts = integer_model(model, policy)
    require_equal(compare_trained(traced, model, layers, acts, fed))


@pytest.mark.parametrize(
    ("which", "value"), [("weight", "nan"), ("activation", "nan"), ("batchnorm", "nan"), ("batchnorm", "inf")]
)
def test_a_scale_that_is_not_finite_is_refused_by_name(which: str, value: str) -> None:
    torch.manual_seed(0)
    _, model, policy = quantized(RandomNet(["conv"], 0), ONNXRUNTIME, 0)
    with torch.no_grad():
        if which == "weight":
            model.quant_layer("blocks.0.conv").scales.log_scale.fill_(float(value))
        elif which == "activation":
            model.act_quantizer("relu").scales.log_scale.fill_(float(value))
        else:
            model.batchnorm("blocks.0.norm").weight[0, 3] = float(value)
    with pytest.raises(ModelError, match="'relu'" if which == "activation" else r"'blocks\.0\.conv'"):
        integer_model(model, policy)


def test_a_sum_that_float32_may_not_hold_is_named_with_its_bound() -> None:
    """8-bit weights of 127 times 8-bit codes of 255: 700 of them may sum to 22.7 million, beyond 2^24."""
    torch.manual_seed(0)
    last = nn.Linear(700, 3)
    nn.init.constant_(last.weight, 127 / 128)
    net = nn.Sequential(nn.Conv2d(3, 700, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    traced = trace(net.eval(), SHAPE)
    placement = place(traced, ONNXRUNTIME, model="wide")
    policy: dict[str, BitPair] = {layer.name: (8, 8) for layer in placement.searched}
    model = model_of_policy(traced, placement, policy, scales="pow2")
    model.initialise_scales(torch.randn(4, *SHAPE))
    model.set_bits(policy)
    layers, acts = integer_model(model.eval(), policy)
    bounds = beyond_float32(placement, layers, acts)
    linear = layers["4"]
    assert isinstance(linear, IntegerLayer)
    codes = int(np.abs(linear.codes[0].astype(int)).sum()) * 255
    assert bounds == {"4": codes + int(np.abs(linear.bias_codes).max())}
    assert bounds["4"] > 2**24


def test_the_model_as_exported_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    _, model, policy = quantized(RandomNet(["conv", "add"], 0), ONNXRUNTIME, 0)
    images = torch.from_numpy(batches(0)[0])
    with torch.no_grad():
        before = model(images)
        with folded_forward(model, integer_model(model, policy)[0]):
            within = model(images)
        after = model(images)
    assert torch.equal(before, after)
    assert not torch.equal(before, within)
    # folding moves each bias by at most half a step of the accumulator
    torch.testing.assert_close(within, before, rtol=0.2, atol=0.2 * before.abs().max().item())
