"""What two neighbouring tensors do to the outputs together, and the program with such terms.

    pair(s, b, t, c) = kl(s at b and t at c) - kl(s at b) - kl(t at c)

for the weight and the input of one layer, and, along an edge between searched layers (a tensor that one hands to the
other, or that a sum has from it), for input and input, weight and input, weight and weight. All on the same images, by
forward passes of the joint network, the rest at the widest candidate. The idea is CLADO's (Deng et al., 2023), which
takes all pairs to second order; here they are neighbours, and measured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch

from limpq_deploy.calibration.datasets import Split
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.variants import TensorAt, Variants, batch_statistics
from limpq_deploy.model.results import tensors_of
from limpq_deploy.policy.costs import Budget, pinned_cost
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.solver.program import Block, JointCost, Program
from limpq_deploy.policy.solver.solvers import solve_by
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.tasks.classification import CLASSIFICATION
from limpq_deploy.train.device import channels_last

BATCH = 128
Pairs = dict[str, BitPair]
Terms = list[list[Any]]
"""Kind and layer of one tensor, of another, and their terms at every two of the bits: as JSON has them."""


def neighbours(indicators: Indicators) -> Iterator[tuple[TensorAt, TensorAt]]:
    """Every two tensors whose changes are measured together, the one that runs first in front."""
    searched = [layer.name for layer in indicators.layers]
    for name in searched:
        yield TensorAt("act", name), TensorAt("weight", name)
    for edge in indicators.edges or ():
        if edge.producer in searched and edge.consumer in searched:
            yield TensorAt("act", edge.producer), TensorAt("act", edge.consumer)
            yield TensorAt("weight", edge.producer), TensorAt("act", edge.consumer)
            yield TensorAt("weight", edge.producer), TensorAt("weight", edge.consumer)


def pair_terms(
    indicators: Indicators, joint: QuantizedModel, split: Split, *, images: int, bits: Sequence[int], seed: int
) -> Terms:
    """Terms of all neighbours at these bits, means over images. At the widest, where nothing changes, they are 0; at a
    width that is not measured that of the nearest stands in."""
    require_own_inputs(indicators)
    widest = indicators.bits[-1]
    base = {layer.name: (widest, widest) for layer in indicators.layers}
    behind: dict[TensorAt, list[TensorAt]] = {}
    for first, second in neighbours(indicators):
        behind.setdefault(first, []).append(second)
    alone: dict[tuple[TensorAt, int], float] = {}
    both: dict[tuple[TensorAt, int, TensorAt, int], float] = {}
    size = min(BATCH, images, len(split))
    count = min(images, len(split)) // size
    with torch.no_grad(), channels_last(joint, True), batch_statistics(joint):
        for _, (batch, _) in zip(range(count), split.batches(size, shuffle=(seed, 0)), strict=False):
            images_NCHW = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
            joint.set_bits(base)
            variants = Variants(joint, images_NCHW)
            reference = _outputs(variants.outputs)
            singles = [TensorAt(kind, layer.name) for layer in indicators.layers for kind in ("weight", "act")]
            for tensor, width, found in _each(variants, joint, singles, bits):
                alone[tensor, width] = alone.get((tensor, width), 0.0) + _kl(found, reference)
            for first, seconds in behind.items():
                for width in bits:
                    joint.set_bits({**base, first.name: _changed(first, width, widest)})
                    variants = Variants(joint, images_NCHW)
                    for second, other, found in _each(variants, joint, seconds, bits):
                        key = first, width, second, other
                        both[key] = both.get(key, 0.0) + _kl(found, reference)
    near = [*(_nearest(width, bits) for width in indicators.bits[:-1]), None]
    return [
        [
            *(first.kind, first.name, second.kind, second.name),
            [
                [
                    (both[first, b, second, c] - alone[first, b] - alone[second, c]) / (size * count)
                    if b and c
                    else 0.0
                    for c in near
                ]
                for b in near
            ],
        ]
        for first, seconds in behind.items()
        for second in seconds
    ]


def terms_taken(indicators: Indicators, terms: Terms, pairs: Pairs) -> Iterator[float]:
    """The terms of a policy."""
    at = {width: place for place, width in enumerate(indicators.bits)}
    for kind, name, other_kind, other, entries in terms:
        yield entries[at[pairs[name][kind == "act"]]][at[pairs[other][other_kind == "act"]]]


def solve_with_pairs(indicators: Indicators, terms: Terms, budget: Budget) -> Pairs:
    """The policy of least importance with these terms (`indicators` read by their measure, alpha 1, entries repaired),
    proved optimal. A layer's own two tensors are part of its options' value, neighbours are pair tables."""
    require_own_inputs(indicators)
    importance = treat_outliers(indicators, "repair")
    options = list(product(indicators.bits, indicators.bits))
    at = {width: place for place, width in enumerate(indicators.bits)}
    places = {layer.name: number for number, layer in enumerate(indicators.layers)}
    value_BK = np.array(
        [
            [_price(importance.weight[name][at[w]]) + _price(importance.act[name][at[a]]) for w, a in options]
            for name in places
        ]
    )
    tables: dict[tuple[int, int], np.ndarray] = {}
    for kind, name, other_kind, other, entries in terms:
        first, second = places[name], places[other]
        mine = [at[pair[kind == "act"]] for pair in options]
        its = [at[pair[other_kind == "act"]] for pair in options]
        term_KK = np.array(entries, np.float64)[np.ix_(mine, its)]
        if first == second:
            value_BK[first] += np.diagonal(term_KK)
        else:
            key, term_KK = ((first, second), term_KK) if first < second else ((second, first), term_KK.T)
            tables[key] = tables.get(key, 0.0) + term_KK
    # What every policy takes changes no order; the solver's bounds want costs of 0 or above.
    tables = {key: term_KK - term_KK.min() for key, term_KK in tables.items()}
    value_BK -= value_BK.min(axis=1, keepdims=True)
    blocks = [
        Block(
            layers=(layer.name,),
            value_K=value_BK[number],
            cost_MK=np.array([[budget.cost.of_layer(layer, *pair) for pair in options]], np.int64),
            bits_KG2=np.array(options, np.int16)[:, None],
        )
        for number, layer in enumerate(indicators.layers)
    ]
    program = replace(
        Program.of(blocks, [budget.limit - pinned_cost(budget.cost, indicators)]),
        tables=tuple(
            JointCost(row=None, blocks=(first, second), cost=term_KK)
            for (first, second), term_KK in sorted(tables.items(), key=lambda item: item[0])
        ),
        class_N=np.tile(np.arange(len(options)), len(blocks)),
    )
    solved = solve_by(program, "auto", time_limit_s=120.0)
    assert solved.solution.complete, f"{solved.name}: not proved"
    assert solved.solution.choice is not None, "uniform bits of the budget are one"
    return program.pairs(solved.solution.choice)


def require_own_inputs(indicators: Indicators) -> None:
    """Ends the program where layers share an input: then a tensor is no layer's own."""
    if any(layer.act_group is not None for layer in indicators.layers):
        raise SystemExit(f"layers of {indicators.model} share an input; variants are for networks where none do")


def _nearest(width: int, bits: Sequence[int]) -> int:
    return min(bits, key=lambda one: abs(one - width))


def _each(
    variants: Variants, joint: QuantizedModel, tensors: Sequence[TensorAt], bits: Sequence[int]
) -> Iterator[tuple[TensorAt, int, Any]]:
    """(tensor by its layer, bits, outputs); several layers may read one quantizer."""
    placed: dict[TensorAt, list[TensorAt]] = {}
    for tensor in tensors:
        placed.setdefault(_placed(joint, tensor), []).append(tensor)
    for one, width, found in variants.each(placed, bits):
        for tensor in placed[one]:
            yield tensor, width, found


def _placed(joint: QuantizedModel, tensor: TensorAt) -> TensorAt:
    """An input goes by its quantizer's name."""
    return TensorAt("act", joint.placement.layer(tensor.name).input) if tensor.kind == "act" else tensor


def _changed(tensor: TensorAt, width: int, widest: int) -> BitPair:
    return (widest, width) if tensor.kind == "act" else (width, widest)


def _outputs(result: object) -> tuple[torch.Tensor, ...]:
    return tuple(output.double() for output in tensors_of(result))


def _kl(result: object, reference: tuple[torch.Tensor, ...]) -> float:
    return CLASSIFICATION.divergence(_outputs(result), reference).item()


def _price(entry: float | None) -> float:
    assert entry is not None, "repair forbids nothing"
    return entry
