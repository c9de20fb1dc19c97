"""Variants of importance: what they measure is what they say, and pairs are solved to the optimum."""

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxscript", reason="needs the extra limpq-deploy[train]")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import torch
from importance_channels import of_channels, of_scales
from importance_moves import around, moves
from importance_pairs import neighbours, pair_terms, solve_with_pairs
from importance_variants_measures import Read, worth
from importance_variants_page import rank_correlation
from torch import nn
from torch.nn import functional as F

from limpq_deploy.calibration.datasets import Split, open_dataset
from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.importance.variants import batch_statistics
from limpq_deploy.model.edges import with_edges
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place
from limpq_deploy.policy.budgets import like_budget
from limpq_deploy.policy.costs import total_cost
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.quant.quantized_model import QuantizedModel, joint_model
from limpq_deploy.train.joint import read_indicators

BITS = (2, 3, 4, 6)
Trained = tuple[Indicators, QuantizedModel, Split]


@pytest.fixture(scope="module")
def chain() -> Trained:
    """Three searched layers in a chain, one of them depthwise, with scales of their first batch."""
    torch.manual_seed(0)
    wide = (nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
    deep = (nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU())
    narrow = (nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *wide, *deep, *narrow, *head).eval()
    traced = trace(net, (1, 16, 16))
    model = joint_model(traced, place(traced, ONNXRUNTIME, model="chain"), BITS)
    digits = open_dataset("digits").split("val").subset(range(32))
    model.initialise_scales(torch.from_numpy(next(digits.batches(32))[0]))
    return with_edges(read_indicators(model, BITS), traced), model, digits


def logits(model: QuantizedModel, images_NCHW: torch.Tensor, bits: dict[str, Any] | None) -> torch.Tensor:
    """Of the whole network at these bits; None: unquantized."""
    with torch.no_grad(), batch_statistics(model):
        model.set_float()
        if bits is not None:
            model.set_bits(bits)
        found: torch.Tensor = model(images_NCHW)
    return found.double()


def away(outputs: torch.Tensor, reference: torch.Tensor) -> float:
    return F.kl_div(outputs.log_softmax(1), reference.log_softmax(1), reduction="batchmean", log_target=True).item()


def images(split: Split) -> torch.Tensor:
    return torch.from_numpy(next(split.batches(32, shuffle=(0, 0)))[0])


def test_a_pair_is_what_two_changes_do_beyond_each_alone(chain: Trained) -> None:
    indicators, model, split = chain
    first, second, _ = (layer.name for layer in indicators.layers)
    terms = pair_terms(indicators, model, split, images=32, bits=(2, 3), seed=0)
    assert len(terms) == len(list(neighbours(indicators))) == 3 + 2 * 3
    batch, widest = images(split), {layer.name: (6, 6) for layer in indicators.layers}
    reference = logits(model, batch, widest)

    def kl(changed: dict[str, Any]) -> float:
        return away(logits(model, batch, {**widest, **changed}), reference)

    [entries] = [one[4] for one in terms if one[:4] == ["weight", first, "act", second]]
    one, other = {first: (2, 6)}, {second: (6, 3)}
    expected = kl({**one, **other}) - kl(one) - kl(other)
    assert entries[0][1] == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert abs(expected) > 1e-5
    assert entries[2] == entries[1]  # 4 bits were not measured: the nearest stand in
    assert entries[3] == [0.0] * 4


@pytest.mark.parametrize("seed", range(4))
def test_the_program_with_pairs_finds_the_best_of_all_policies(chain: Trained, seed: int) -> None:
    indicators, _, _ = chain
    rng = np.random.default_rng(seed)

    def falling() -> tuple[float, ...]:
        return tuple(sorted(rng.random(len(BITS)).tolist(), reverse=True))

    read = replace(
        indicators, layers=tuple(replace(layer, weight=falling(), act=falling()) for layer in indicators.layers)
    )
    terms = [
        [first.kind, first.name, second.kind, second.name, rng.normal(0, 0.5, (4, 4)).tolist()]
        for first, second in neighbours(indicators)
    ]
    budget, names = like_budget(indicators, 3, 3), [layer.name for layer in indicators.layers]
    found = solve_with_pairs(read, terms, budget)
    assert total_cost(budget.cost, indicators, found) <= budget.limit
    program = Read(indicators=read, terms=terms)
    policies = (dict(zip(names, pairs, strict=True)) for pairs in product(product(BITS, BITS), repeat=len(names)))
    best = min(worth(program, pairs) for pairs in policies if total_cost(budget.cost, read, pairs) <= budget.limit)
    assert worth(program, found) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("point", [(3, 3), (6, 6)])
def test_a_move_is_what_it_changes_of_the_distance_from_float(chain: Trained, point: tuple[int, int]) -> None:
    indicators, model, split = chain
    curves = moves(indicators, model, None, split, point, images=32, seed=0)
    batch, here = images(split), {layer.name: point for layer in indicators.layers}
    wanted = logits(model, batch, None)
    name = indicators.layers[1].name
    changed = away(logits(model, batch, {**here, name: (2, point[1])}), wanted)
    expected = changed - away(logits(model, batch, here), wanted)
    assert curves["weight"][name][0] == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert abs(expected) > 1e-5
    assert curves["weight"][name][BITS.index(point[0])] == curves["act"][name][BITS.index(point[1])] == 0.0


def test_moves_stay_within_their_reach(chain: Trained) -> None:
    indicators, _, _ = chain
    curves = {kind: {layer.name: [0.2, 0.0, -0.1, 0.1] for layer in indicators.layers} for kind in ("weight", "act")}
    for layer in around(indicators, curves, (3, 3), 1).layers:
        assert set(layer.pairs or ()) == set(product((2, 3, 4), (2, 3, 4)))
        assert layer.weight == pytest.approx((0.3, 0.1, 0.0, 0.2))
    at_weights = around(indicators, curves, (3, 6), 1).layers[0]
    assert set(at_weights.pairs or ()) == {(2, 6), (3, 6), (4, 6)}


def test_noise_of_channels_falls_with_bits_and_is_put_together_three_ways(chain: Trained) -> None:
    indicators, model, split = chain
    found = of_channels(indicators, model, split, images=32, seed=0)
    channels = {layer.name: len(model.quant_layer(layer.name).weight) for layer in indicators.layers}
    for tensor, layer in product(("weight", "act"), indicators.layers):
        mean, most, total = (found[kind][tensor][layer.name] for kind in ("mean", "max", "sum"))
        assert mean[0] > mean[1] > mean[2] > mean[3] == 0.0
        assert [value * channels[layer.name] for value in mean] == pytest.approx(total, rel=1e-5)
        assert all(0 <= low <= high <= whole for low, high, whole in zip(mean, most, total, strict=True))


def test_noise_of_a_channel_is_its_share_of_what_the_layer_makes(chain: Trained) -> None:
    indicators, model, split = chain
    name = indicators.layers[1].name
    found = of_channels(indicators, model, split, images=32, seed=0)["mean"]["weight"][name][0]
    made: list[torch.Tensor] = []
    handle = model.quant_layer(name).register_forward_hook(lambda *parts: made.append(parts[2]))
    widest = {layer.name: (6, 6) for layer in indicators.layers}
    logits(model, images(split), widest)
    logits(model, images(split), {**widest, name: (2, 6)})
    handle.remove()
    noise_C, signal_C = (made[1] - made[0]).square().mean((0, 2, 3)), made[0].var((0, 2, 3), correction=0)
    assert found == pytest.approx((noise_C / signal_C).mean().item(), rel=1e-3)


def test_scales_count_with_their_tensors_sizes(chain: Trained) -> None:
    indicators = replace(chain[0], layers=tuple(replace(layer, act_elements=100) for layer in chain[0].layers))
    layer = indicators.layers[0]
    length, energy = of_scales(indicators, 1), of_scales(indicators, 2)
    assert length["weight"][layer.name] == pytest.approx([scale * layer.num_weights**0.5 for scale in layer.weight])
    assert energy["act"][layer.name] == pytest.approx([scale**2 * 100 for scale in layer.act])


def test_rank_correlation_shares_the_ranks_of_ties() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 2, 4], [1, 2, 3, 4]) == pytest.approx(0.9486833)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0
