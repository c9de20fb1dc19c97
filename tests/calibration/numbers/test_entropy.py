"""The entropy threshold against a plain reading of its formula."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from limpq_deploy.calibration.numbers.entropy import BINS, FIRST, STEP, entropy_threshold
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.ranges import entropy


def plainly(magnitudes: NDArray[np.float32], levels: int) -> float:
    """The same threshold, bin by bin in Python."""
    top = float(magnitudes.max())
    counts = list(np.histogram(magnitudes, bins=BINS, range=(0.0, top))[0].astype(float))
    counts[0] = counts[1]
    found: dict[int, float] = {}
    for kept in range(BINS, max(FIRST, levels) - 1, -STEP):
        p = counts[:kept]
        p[-1] += sum(counts[kept:])
        shared: dict[int, list[float]] = {}
        for index in range(kept):
            if counts[index] > 0:
                shared.setdefault(index * levels // kept, []).append(counts[index])
        means = {level: sum(some) / len(some) for level, some in shared.items()}
        q = [means[index * levels // kept] if counts[index] > 0 else 0.0 for index in range(kept)]
        of_p, of_q = sum(p), sum(q)
        pairs = [(a / of_p, b / of_q) for a, b in zip(p, q, strict=True) if a > 0]
        found[kept] = math.inf if any(b == 0 for _, b in pairs) else sum(a * math.log(a / b) for a, b in pairs)
    return top * min(found, key=found.__getitem__) / BINS


@pytest.mark.parametrize("levels", [16, 256])
def test_the_threshold_is_that_of_the_formula(levels: int) -> None:
    values = np.abs(np.random.default_rng(levels).laplace(size=3000)).astype(np.float32)
    assert entropy_threshold(values, levels) == pytest.approx(plainly(values, levels), rel=1e-12)


def test_a_lone_outlier_is_cut_and_a_full_range_is_not() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0, 1, 50_000).astype(np.float32)
    assert entropy_threshold(np.append(spread, np.float32(4.0)), 256) < 2.0
    assert entropy_threshold(spread, 256) > 0.95


def test_zeros_of_a_relu_do_not_move_the_threshold() -> None:
    values = np.abs(np.random.default_rng(1).normal(size=5000)).astype(np.float32)
    with_zeros = np.concatenate([values, np.zeros(20_000, np.float32)])
    assert entropy_threshold(with_zeros, 128) == entropy_threshold(values, 128)


def test_a_tensor_of_zeros_has_no_threshold_and_still_a_positive_scale() -> None:
    assert entropy_threshold(np.zeros(9, np.float32), 16) == 0.0
    assert entropy(torch.zeros(9), QuantGrid(bits=4, signed=False)) > 0


def test_the_scale_puts_the_threshold_at_the_last_code() -> None:
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    for grid in (QuantGrid(bits=8, signed=True), QuantGrid(bits=4, signed=False)):
        threshold = entropy_threshold(x.abs().numpy(), grid.qmax + 1)
        assert entropy(x, grid) == pytest.approx(threshold / grid.qmax)
