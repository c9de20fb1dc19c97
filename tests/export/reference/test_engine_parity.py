"""A file cut at its quantizers: what is found when another execution of it differs. ONNX Runtime plays both sides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.loading import load_model
from limpq_deploy.export.graph.split_at_quantizers import Cut, cut_model
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.reference.engine_parity import check_clips, compare_engine, references, write_cut
from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written


class Built:
    """A tiny net's file, its cut and what ONNX Runtime makes of the cut, with and without optimisation."""

    def __init__(self, edges: Any, folder: Path, seed: int = 0) -> None:
        net, logits = edges(seed)
        self.net = net
        self.path = folder / "model.onnx"
        onnx.save(net.qdq(logits), self.path)
        self.cut_path, self.cuts = write_cut(self.path, folder)
        self.images = net.images(4)


@pytest.fixture
def built(edges: Any, tmp_path: Path) -> Built:
    return Built(edges, tmp_path)


def runs(model: onnx.ModelProto) -> Any:
    """The cut file as written, with all its results."""
    return open_as_written(model).run_feeds


def test_every_activation_quantizer_is_a_cut_with_its_grid(built: Built) -> None:
    assert [cut.tensor for cut in built.cuts] == [
        "images_codes",
        "stem.carrier_codes",
        "block1.in_codes",
        "block1.mid_codes",
        "block2.carrier_codes",
        "block2.in_codes",
        "block2.carrier_codes_2",
        "pool.out_codes",
    ]
    grids = {cut.tensor: (cut.low, cut.high) for cut in built.cuts}
    assert grids["images_codes"] == (-128, 127)
    assert grids["block1.in_codes"] == (0, 15)
    assert grids["block2.in_codes"] == (0, 7)


def test_the_cut_file_fed_with_the_files_own_codes_gives_the_files_own_codes(built: Built) -> None:
    report = compare_engine(
        built.path, built.cuts, references(built.path, [built.images]), runs(load_model(built.cut_path)), {}
    )
    assert (report.mismatches, report.logits_equal, report.images) == (0, True, 4)
    assert report.elements == 4 * sum(int(np.prod(cut.shape)) for cut in built.cuts)
    assert report.mode == "layer by layer"


def test_a_step_more_in_one_layer_is_found_there_and_nowhere_else(built: Built) -> None:
    """The bias of block1.conv1 grows by one step of what follows it: all codes that are not at an end move by one."""
    model = load_model(built.cut_path)
    step = next(cut.scale for cut in built.cuts if cut.tensor == "block1.mid_codes")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "block1.conv1.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(step), bias.name))
    report = compare_engine(built.path, built.cuts, references(built.path, [built.images]), runs(model), {})
    wrong = {part.tensor: part.max_lsb for part in report.tensors if part.mismatches}
    assert wrong == {"block1.mid_codes": 1}


def test_saturating_inputs_stay_on_every_grid(built: Built) -> None:
    model = load_model(built.cut_path)
    found = check_clips(load_model(built.path), built.cuts, runs(model))
    assert found.lost == ()
    assert found.not_driven == ()


@pytest.mark.parametrize("name", ["block1.in", "block2.in"])
def test_a_lost_upper_bound_is_found(built: Built, name: str) -> None:
    model = load_model(built.cut_path)
    high = next(tensor for tensor in model.graph.initializer if tensor.name == f"{name}_high")
    high.CopyFrom(numpy_helper.from_array(np.array(1e9, np.float32), high.name))
    [lost] = check_clips(load_model(built.path), built.cuts, runs(model)).lost
    assert lost.tensor == f"{name}_codes"
    assert lost.most > lost.high


def test_a_quantizer_that_nothing_drives_to_its_end_is_named(built: Built) -> None:
    model = load_model(built.cut_path)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "block1.conv1.bias")
    weight.CopyFrom(numpy_helper.from_array(np.full(8, -1e6, np.float32), weight.name))
    assert "block1.mid_codes" in check_clips(load_model(built.path), built.cuts, runs(model)).not_driven


def test_codes_of_reals_are_the_nearest_steps() -> None:
    cut = Cut(tensor="c", start="s", end="e", scale=0.5, low=0, high=7, shape=(1,))
    found: NDArray[np.int16] = cut.codes(np.array([0.0, 0.5001, 3.4999], np.float32))
    assert found.tolist() == [0, 1, 7]


def test_a_float_file_has_nothing_to_cut(edges: Any) -> None:
    net, logits = edges(0)
    with pytest.raises(ModelError, match="no quantized activation to cut at"):
        cut_model(strip_markers(net.template(logits)))


def test_references_hold_each_value_twice_as_start_and_as_end(built: Built) -> None:
    [one] = list(references(built.path, [built.images]))
    found: Mapping[str, NDArray[np.float32]] = one.feeds
    for cut in built.cuts:
        np.testing.assert_array_equal(found[cut.start], one.ends[cut.end])
        codes = cut.codes(found[cut.start])
        assert cut.low <= codes.min() <= codes.max() <= cut.high
        np.testing.assert_array_equal(codes.astype(np.float32) * np.float32(cut.scale), found[cut.start])
