"""Grids of codes, read off a graph's operators."""

import numpy as np

from limpq_deploy.export.graph.code_grids import CodeGrid, code_grids

from ..reference.foreign_nets import S8, U8, Graph


def grid(scale: float, zero: int, dtype: type) -> CodeGrid:
    return CodeGrid(np.array(scale, np.float32), np.array(zero, dtype), np.dtype(dtype))


def test_signed_and_unsigned_codes_of_one_meaning_are_128_apart() -> None:
    assert grid(0.5, 3, S8).same_meaning(grid(0.5, 131, U8))
    assert not grid(0.5, 3, S8).same_meaning(grid(0.5, 3, U8))
    assert not grid(0.5, 3, U8).same_meaning(grid(0.25, 3, U8))


def test_moves_keep_a_grid_and_reals_have_none() -> None:
    net = Graph([1, 4, 8, 8])
    codes = net.quantize("x", 0.5, 7)
    pooled = net.node("MaxPool", net.node("Transpose", codes, perm=[0, 1, 3, 2]), kernel_shape=[2, 2])
    real = net.dequantize(pooled, 0.5, 7)
    found = code_grids(net.model(real))
    assert str(found[pooled]) == "uint8, scale 0.5, zero-point 7"
    assert real not in found
