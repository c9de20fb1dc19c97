"""What the program is compared with, which lives in benchmarks/: learned widths, Hessian traces, gradient scores."""

import json
from dataclasses import replace
from importlib import import_module
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from limpq_deploy.calibration.datasets import DataSet
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.importance.variants import TensorAt, searched_tensors
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.policy.budgets import budgets_of, like_budget
from limpq_deploy.policy.costs import total_cost
from limpq_deploy.quant.modules import ActFakeQuant
from limpq_deploy.quant.quantized_model import QuantizedModel, joint_model
from limpq_deploy.train.joint import read_indicators
from limpq_deploy.train.settings import finetune_settings

BITS = (2, 3, 4, 5, 6)
Tiny = tuple[TracedModel, Placement]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    return import_module


@pytest.fixture
def joint(tiny: Tiny, few_digits: DataSet) -> QuantizedModel:
    """Untrained, but each width's BatchNorm has factors of its own."""
    model = joint_model(*tiny, BITS)
    model.initialise_scales(torch.from_numpy(next(few_digits.split("train").batches(64))[0]))
    generator = torch.Generator().manual_seed(1)
    for layer in model.placement.searched:
        norm = model.batchnorm(layer.batchnorm or "")
        norm.weight.data += 0.2 * torch.randn(norm.weight.shape, generator=generator)
    return model


@pytest.fixture
def images_NCHW(few_digits: DataSet) -> torch.Tensor:  # noqa: N802
    return torch.from_numpy(next(few_digits.split("val").batches(40))[0])


@pytest.mark.parametrize("width", BITS)
def test_at_whole_widths_the_network_is_the_joint_one(
    benchmark: Any, joint: QuantizedModel, images_NCHW: torch.Tensor, width: int
) -> None:
    fractional_bits = benchmark("fractional_bits")
    widths = fractional_bits.Widths(searched_tensors(joint.placement), BITS, width)
    found = fractional_bits.fractional(joint, widths).train()(images_NCHW)
    joint.set_bits({layer.name: (width, width) for layer in joint.placement.searched})
    assert torch.allclose(found, joint.train()(images_NCHW), atol=1e-6)


def test_between_two_widths_the_gradient_is_that_of_the_loss(
    benchmark: Any, joint: QuantizedModel, images_NCHW: torch.Tensor
) -> None:
    """Against differences, activations in float: where they are rounded the loss is a staircase."""
    fractional_bits = benchmark("fractional_bits")
    tensor = TensorAt("weight", "conv3")
    widths = fractional_bits.Widths((tensor,), BITS, 2.4)
    model = fractional_bits.fractional(joint, widths).double().train()
    widths.values.data = widths.values.data.double()
    for module in model.modules():
        if isinstance(module, ActFakeQuant):
            module.active = None

    def loss(at: float) -> torch.Tensor:
        widths.values.data[0] = at
        return F.cross_entropy(model(images_NCHW.double()), torch.arange(40) % 10)

    loss(2.4).backward()
    slope = (loss(2.4 + 1e-5) - loss(2.4 - 1e-5)).item() / 2e-5
    assert slope != 0
    assert widths.values.grad.item() == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("budget", ["bitops", "weights"])
def test_widths_are_rounded_to_the_nearest_policy_within_the_budget(
    benchmark: Any, joint: QuantizedModel, budget: str
) -> None:
    nearest = benchmark("fractional_bits").nearest
    indicators = read_indicators(joint, BITS)
    limit = like_budget(indicators, 3, 3) if budget == "bitops" else budgets_of("max_avg_weight_bits", indicators, 3)[0]
    tensors = searched_tensors(joint.placement)
    wanted = {f"{one.kind} {one.name}": 2.31 + 0.55 * place for place, one in enumerate(tensors)}
    pairs = nearest(joint, indicators, limit, wanted)

    layers = [joint.placement.layer(layer.name) for layer in indicators.layers]

    def policy(bits: dict[TensorAt, int]) -> dict[str, tuple[int, int]]:
        return {one.name: (bits[TensorAt("weight", one.name)], bits[TensorAt("act", one.input)]) for one in layers}

    best = min(
        (
            (
                sum(
                    (width - wanted[f"{one.kind} {one.name}"]) ** 2 for one, width in zip(tensors, widths, strict=True)
                ),
                p,
            )
            for widths in product(BITS, repeat=len(tensors))
            if total_cost(limit.cost, indicators, p := policy(dict(zip(tensors, widths, strict=True)))) <= limit.limit
        ),
        key=lambda one: one[0],
    )
    assert pairs == best[1]


@pytest.mark.parametrize("budget", ["bitops", "weights"])
def test_learning_ends_at_the_budget_and_leaves_the_joint_network_alone(
    benchmark: Any, tiny: Tiny, joint: QuantizedModel, few_digits: DataSet, budget: str
) -> None:
    learn = benchmark("fractional_bits").learn
    before = {name: tensor.clone() for name, tensor in joint.state_dict().items()}
    indicators = read_indicators(joint, BITS)
    limit = like_budget(indicators, 3, 3) if budget == "bitops" else budgets_of("max_avg_weight_bits", indicators, 3)[0]
    settings = replace(finetune_settings(256), steps=40, warmup_steps=2, batch_size=32, candidates=1)
    found = [
        learn(joint, indicators, limit, few_digits, tiny[0].graph_module, settings=settings, seed=3) for _ in range(2)
    ]
    assert found[0] == found[1]
    assert found[0].used == pytest.approx(1, abs=0.1)
    assert total_cost(limit.cost, indicators, found[0].pairs) <= limit.limit
    moved = [width for name, width in found[0].widths.items() if budget == "bitops" or name.startswith("weight")]
    assert max(moved) - min(moved) > 0.03
    if budget == "weights":
        assert {act for _, act in found[0].pairs.values()} == {6}
    assert all(torch.equal(tensor, before[name]) for name, tensor in joint.state_dict().items())


def test_hessian_traces_are_those_of_the_whole_matrix(
    benchmark: Any, tiny: Tiny, few_digits: DataSet, images_NCHW: torch.Tensor
) -> None:
    rivals = benchmark("rival_scores")
    labels = torch.arange(40) % 10
    model = rivals.calibrated(*tiny, BITS, images_NCHW)
    traces = rivals.HessianTraces(model, [(images_NCHW, labels)], seed=5)
    for _ in range(100):
        traces.sample()
    weight = model.quant_layer("shortcut").weight
    gradient = torch.autograd.grad(F.cross_entropy(model(images_NCHW), labels), weight, create_graph=True)[0].flatten()
    rows = [torch.autograd.grad(one, weight, retain_graph=True)[0].flatten() for one in gradient]
    found = [one[TensorAt("weight", "shortcut")] for one in traces.samples]
    exact = sum(row[place].item() for place, row in enumerate(rows))
    assert exact > 0
    assert fmean(found) == pytest.approx(exact, abs=4 * stdev(found) / len(found) ** 0.5)
    assert 4 * stdev(found) / len(found) ** 0.5 < exact
    read = traces.indicators(read_indicators(model, BITS))
    assert all(layer.weight[0] > layer.weight[2] > layer.weight[4] > 0 for layer in read.layers)


def test_gradient_scores_are_squared_gradients_times_squared_changes_of_a_layers_output(
    benchmark: Any, tiny: Tiny, images_NCHW: torch.Tensor
) -> None:
    rivals = benchmark("rival_scores")
    labels = torch.arange(40) % 10
    model = rivals.calibrated(*tiny, BITS, images_NCHW)
    scores = rivals.GradientScores(model, BITS)
    scores.add(images_NCHW, labels)
    layer, quantizer = model.quant_layer("conv3"), model.act_quantizer(model.placement.layer("conv3").input)
    outputs: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _, x, y: outputs.append(y))
    gradient = torch.autograd.grad(F.cross_entropy(model(images_NCHW), labels), outputs[0])[0]
    layer.active = quantizer.active = 3
    with torch.no_grad():
        model(images_NCHW)
    handle.remove()
    expected = (gradient * (outputs[1] - outputs[0])).square().sum().item()
    assert scores.scores["conv3", 3] == pytest.approx(expected, rel=1e-5)
    assert all(scores.scores["conv3", bits] > scores.scores["conv3", bits + 1] for bits in BITS[:-1])


def test_the_lines_beside_the_rivals_are_the_tournaments() -> None:
    """Its lines were copied to stand in one table; both are committed."""
    folder = Path(__file__).resolve().parents[3] / "benchmarks"
    rivals = json.loads((folder / "learned_bits_x86_2cores.json").read_text(encoding="utf-8"))
    lines = (folder / "float_nets/mobilenet-lines.jsonl").read_text(encoding="utf-8").splitlines()
    of = {(line["seed"], line["budget"]) for line in rivals["lines"]}
    wanted = [line for line in map(json.loads, lines) if (line["seed"], line["budget"]) in of]
    assert len(wanted) > len(of)
    assert sorted(rivals["beside"], key=str) == sorted(wanted, key=str)
