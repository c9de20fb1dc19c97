"""Prices of several layers' precisions at once: what a layer moves, by the pairs of all units that its kernels see.

Engines show some of these tuples of pairs. The others are taken from those that differ in few units, by a Gaussian
process (Rasmussen and Williams, 2006) over all layers that stand alike in the network:

    k(layer, t; other, u) = NEARNESS^(units in which t and u differ) * (1 where it is the same layer, else ALIKE)

Values are shares of a layer's own price and what they are beyond it, so that where nothing is known, nothing is added.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.portions import portions
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.timing.cost_table import QUANTITIES, Moved

NEARNESS = 0.5
"""Correlation of tuples that differ in one unit. From 0.3 to 0.6 hardly differ (benchmarks/rtx_prices.md)."""

ALIKE = 0.8
"""Correlation of two layers that stand alike, in shares of their own price."""

NOISE = 1e-3
"""Variance of one engine's figure beside that of a tuple: of layers that see more than is known of them."""

MOST_TUPLES = 1024
"""Tuples of pairs of one layer; where there are more, sums over two units have to do."""

MOST_FIGURES = 1500
"""Figures of alike layers that are solved together; the work grows with their third power."""

Units = tuple[str, ...]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What engines say of one layer. ``units``: those that count, in execution order; ``beyond``: by the pairs of these
    units, figures of `QUANTITIES` in shares of ``size``; ``weights``: how sure each of them is."""

    units: Units
    beyond: Mapping[tuple[BitPair, ...], Floats]
    weights: Mapping[tuple[BitPair, ...], float]
    size: Floats


Tensors = dict[Units, Floats]
"""By units, what they move together: an axis for each of them, as long as its pairs, and one of `QUANTITIES`."""


def group_prices(
    figures: Mapping[str, Figures], alike: Mapping[str, Hashable], pairs: Mapping[str, Sequence[BitPair]]
) -> dict[Units, dict[tuple[BitPair, ...], Moved]]:
    """What groups of units move, by their pairs, beyond the layers' own prices. ``alike``: by layer, what it has in
    common with those that stand alike; ``pairs``: of every unit. Bytes are whole, kernels thousandths, as a budget
    counts them; what is nothing is left out."""
    classes: dict[Hashable, list[str]] = defaultdict(list)
    for layer in figures:
        classes[alike[layer]].append(layer)
    found: Tensors = {}
    for layers in classes.values():
        for some in portions({layer: len(figures[layer].beyond) for layer in layers}, MOST_FIGURES):
            for layer, tensor in _tensors(some, figures, pairs):
                units = tuple(unit for unit in figures[layer].units if len(pairs[unit]) > 1)
                if not units:  # what its own price leaves is less than counts
                    continue
                whole = tensor.reshape(*(len(pairs[unit]) for unit in units), len(QUANTITIES))
                found[units] = found[units] + whole if units in found else whole
    return {
        units: {
            chosen: moved
            for chosen, values in zip(product(*(pairs[unit] for unit in units)), _rows(tensor), strict=True)
            if (moved := _moved(values)) != Moved()
        }
        for units, tensor in _within_largest(found).items()
    }


def _tensors(
    layers: Sequence[str], figures: Mapping[str, Figures], pairs: Mapping[str, Sequence[BitPair]]
) -> Iterator[tuple[str, Floats]]:
    """What each of some alike layers moves beyond its own price, by the pairs of its units."""
    number = {pair: at for at, pair in enumerate(sorted({pair for some in pairs.values() for pair in some}))}
    known = [(at, chosen) for at, layer in enumerate(layers) for chosen in figures[layer].beyond]
    layer_F = np.array([at for at, _ in known])
    tuple_FU = np.array([[number[pair] for pair in chosen] for _, chosen in known])
    values_FQ = np.array([figures[layers[at]].beyond[chosen] for at, chosen in known])
    noise_F = np.array([NOISE / figures[layers[at]].weights[chosen] for at, chosen in known])
    if not values_FQ.any():
        return
    weights_FQ = np.linalg.solve(_kernel(layer_F, tuple_FU, layer_F, tuple_FU) + np.diag(noise_F), values_FQ)
    for at, layer in enumerate(layers):
        units = figures[layer].units
        every_TU = np.array([[number[pair] for pair in chosen] for chosen in product(*(pairs[unit] for unit in units))])
        near_TF = _kernel(np.full(len(every_TU), at), every_TU, layer_F, tuple_FU)
        shape = (*(len(pairs[unit]) for unit in units), len(QUANTITIES))
        yield layer, (near_TF @ weights_FQ * figures[layer].size).reshape(shape)


def _kernel(
    layer_A: NDArray[np.int64], tuple_AU: NDArray[np.int64], layer_B: NDArray[np.int64], tuple_BU: NDArray[np.int64]
) -> Floats:
    unlike_AB = (tuple_AU[:, None] != tuple_BU[None]).sum(axis=-1)
    same_AB = layer_A[:, None] == layer_B[None]
    return np.asarray(NEARNESS**unlike_AB * np.where(same_AB, 1.0, ALIKE), np.float64)


def _within_largest(tensors: Tensors) -> Tensors:
    """Groups whose units are all in a larger one are added to that."""
    found: Tensors = {}
    for units in sorted(tensors, key=lambda units: -len(units)):
        tensor = tensors[units]
        host = next((some for some in found if set(units) <= set(some)), None)
        if host is None:
            found[units] = tensor
            continue
        sizes = dict(zip(units, tensor.shape, strict=False))
        found[host] = found[host] + tensor.reshape(*(sizes.get(unit, 1) for unit in host), len(QUANTITIES))
    return found


def _rows(tensor: Floats) -> list[list[float]]:
    rows: list[list[float]] = tensor.reshape(-1, len(QUANTITIES)).tolist()
    return rows


def _moved(values: Sequence[float]) -> Moved:
    activations, weights, kernels, reformats = values
    return Moved(
        activations=float(round(activations)),
        weights=float(round(weights)),
        kernels=round(kernels, 3),
        reformats=round(reformats, 3),
    )
