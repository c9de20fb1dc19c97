"""Codes of an optimised graph, found again in the file."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.runtime_taps import Watch
from limpq_deploy.export.reference.foreign_parity import compare_file
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime

from ..reference.foreign_nets import S8, Graph, images_of, saved


def test_signed_codes_that_the_runtime_holds_as_unsigned_come_out_signed(tmp_path: Path) -> None:
    net = Graph([2, 4, 8, 8])
    codes = net.quantize("x", 0.03, 5, S8)
    conv = net.node("Conv", net.dequantize(codes, 0.03, 5, S8), net.weight(6, 4, 3, 3))
    model = net.model(net.pair(conv, 0.05, -7, S8))
    path = saved(model, tmp_path)
    session = OnnxRuntime().watch_as(model, OnnxRuntime().optimized_graph(path), threads=1)
    assert not session.unwatched
    images = images_of(model)[0]
    found = session.run(images)[1]
    assert all(value.dtype == np.int8 for value in found.values())
    np.testing.assert_array_equal(found[codes], np.clip(np.rint(images / np.float32(0.03)) + 5, -128, 127))


def test_channels_go_back_to_their_place_in_any_number_of_dimensions() -> None:
    watch = Watch(tensor="codes", element_type=2, back=(0, 3, 1, 2))
    assert watch.in_file_layout(np.zeros((2, 5, 6, 3), np.uint8)).shape == (2, 3, 5, 6)
    assert watch.in_file_layout(np.zeros((2, 5, 3), np.uint8)).shape == (2, 3, 5)
    assert watch.in_file_layout(np.zeros((2, 3), np.uint8)).shape == (2, 3)


def test_codes_behind_a_transpose_of_the_file_are_compared_in_the_order_that_fits(tmp_path: Path) -> None:
    net = Graph([2, 4, 8, 6])
    turned = net.node("Transpose", net.pair("x", 0.03, 128), perm=[0, 1, 3, 2])
    behind = net.quantize(net.node("Relu", turned), 0.02, 0)
    conv = net.quantize(net.node("Conv", net.dequantize(behind, 0.02, 0), net.weight(6, 4, 3, 3)), 0.05, 117)
    path = saved(net.model(net.dequantize(conv, 0.05, 117)), tmp_path)
    found = compare_file(path, images_of(load_model(path)), OnnxRuntime(), threads=1)
    assert found.exact
    assert not found.unwatched
    assert conv in {one.tensor for one in found.tensors}


def test_codes_that_the_runtime_makes_before_a_transpose_of_the_file_are_found_behind_it(tmp_path: Path) -> None:
    net = Graph([4, 4, 6])
    read = net.pair("x", 0.03, 128)
    inner = net.node("MatMul", read, net.constant(net.random.normal(size=(6, 6)), np.float32))
    turned = net.quantize(net.node("Transpose", inner, perm=[1, 0, 2]), 0.02, 120)
    total = net.node("Add", net.dequantize(turned, 0.02, 120), read)
    other = net.quantize(total, 0.05, 128)
    path = saved(net.model(net.dequantize(other, 0.05, 128)), tmp_path)
    found = compare_file(path, images_of(load_model(path)), OnnxRuntime(), threads=1)
    assert not found.unwatched
    assert [island.codes for island in found.islands] == [found.images * 4 * 6]
