"""The range that keeps most information, from a histogram of magnitudes. NumPy alone.

Migacz, 8-bit Inference with TensorRT, GTC 2017; as in TensorRT's entropy calibrator, for any number of codes.
"""

import numpy as np
from numpy.typing import NDArray

BINS = 2048
FIRST = 128
"""No fewer bins are kept: a sixteenth of the largest magnitude is the smallest threshold."""
STEP = 8
"""Bins between two thresholds that are tried (TensorRT tries every bin; its minimum is flat)."""


def entropy_threshold(magnitudes: NDArray[np.floating], levels: int) -> float:
    """The clipping threshold T with the least KL(P || Q), for magnitudes quantized to ``levels`` codes of one sign.

    P: histogram of the magnitudes below T, everything beyond it added to its last bin. Q: the same bins without what
    lies beyond, shared out evenly over those not empty within each of ``levels`` equal parts. The bin at 0 counts as
    its neighbour does: zeros (those of a ReLU above all) are exact on any grid. Returns the largest magnitude where
    it has to, and 0.0 for zeros alone.
    """
    top = float(magnitudes.max(initial=0.0))
    if top <= 0:
        return 0.0
    counts = np.histogram(magnitudes, bins=BINS, range=(0.0, top))[0].astype(np.float64)
    counts[0] = counts[1]
    if not counts.any():
        return top
    best, least = BINS, np.inf
    for kept in range(BINS, max(FIRST, levels) - 1, -STEP):
        divergence = _divergence(counts, kept, levels)
        if divergence < least:
            best, least = kept, divergence
    return top * best / BINS


def _divergence(counts: NDArray[np.float64], kept: int, levels: int) -> float:
    """KL(P || Q) in nats for a threshold at ``kept`` bins; infinite where Q rules out what P holds."""
    inside = counts[:kept]
    reference = inside.copy()
    reference[-1] += counts[kept:].sum()
    part = np.arange(kept) * levels // kept
    filled = np.bincount(part, inside > 0, levels)
    mean = np.bincount(part, inside, levels) / np.maximum(filled, 1)
    coded = np.where(inside > 0, mean[part], 0.0)
    held = reference > 0
    if not coded.any() or not coded[held].all():
        return float("inf")
    p, q = reference[held] / reference.sum(), coded[held] / coded.sum()
    return float((p * np.log(p / q)).sum())
