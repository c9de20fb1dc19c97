"""Stand-ins have the structure of a policy's graph: the same nodes and types, other numbers."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from limpq_deploy.export.timing.profile import mixed_policies
from limpq_deploy.export.timing.timing_graph import KEY, timing_graph

SEARCHED = ("block1.conv1", "block1.conv2", "block2.conv")


def test_a_stand_in_is_the_policys_graph_with_other_numbers(residual: Any, searched_net: Any) -> None:
    made, logits = residual(0)
    trained = made.qdq(logits)
    template, placement = searched_net
    policy = {"block1.conv1": (4, 4), "block1.conv2": (3, 8), "block2.conv": (4, 3)}
    found = timing_graph(template, placement, policy)
    assert Counter(node.op_type for node in found.graph.node) == Counter(node.op_type for node in trained.graph.node)
    assert {entry.key for entry in found.metadata_props} == {KEY}


def test_stand_ins_run_whatever_the_policy_leaves_in_float(searched_net: Any, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")
    template, placement = searched_net
    images = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    for policy in (
        dict.fromkeys(SEARCHED, (8, 8)),
        dict.fromkeys(SEARCHED, (32, 32)),
        *mixed_policies(placement, ((8, 8), (32, 32)), 4, seed=1).values(),
    ):
        onnx.save(timing_graph(template, placement, policy), tmp_path / "m.onnx")
        (logits,) = ort.InferenceSession(tmp_path / "m.onnx").run(None, {"images": images})
        assert np.isfinite(logits).all()


def test_layers_kept_in_float_are_executed_in_float_wherever_they_stand(searched_net: Any, tmp_path: Path) -> None:
    """ONNX Runtime would quantize a float layer between two quantized ones by itself."""
    pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")
    from limpq_deploy.export.runtimes import runtime_named

    template, placement = searched_net
    for policy in mixed_policies(placement, ((8, 8), (32, 32)), 6, seed=3).values():
        onnx.save(timing_graph(template, placement, policy), tmp_path / "m.onnx")
        found = runtime_named("onnxruntime").engine(tmp_path / "m.onnx").layer_precision
        assert {layer: found[layer] for layer in policy} == {
            layer: "float32" if pair == (32, 32) else "u8s8" for layer, pair in policy.items()
        }


def test_weights_use_their_whole_grid_as_kernels_are_chosen_by_it(searched_net: Any) -> None:
    template, placement = searched_net
    for bits, largest in ((8, 127), (7, 63)):
        found = timing_graph(template, placement, dict.fromkeys(SEARCHED, (bits, 8)))
        codes = {one.name: onnx.numpy_helper.to_array(one) for one in found.graph.initializer}
        assert np.abs(codes["block1.conv1.weight_codes"].astype(int)).max() == largest
