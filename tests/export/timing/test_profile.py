"""Profiles of a tiny net on ONNX Runtime: a table that covers every layer, predicts whole graphs and knows its
errors."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.records import load_record, write_record
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.runtimes.onnxruntime.profile import layer_times
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime
from limpq_deploy.export.timing.model import from_table, predict
from limpq_deploy.export.timing.profile import ProfileSettings, errors, mixed_policies, profile, skeleton_of
from limpq_deploy.export.timing.table import LatencyTable

SEARCHED = ("block1.conv1", "block1.conv2", "block2.conv")

EDGES = [
    ("stem", "block1.conv1", 128),
    ("block1.conv1", "block1.conv2", 128),
    ("stem", "block1.conv2", 128),
    ("block1.conv2", "block2.conv", 128),
    ("block2.conv", "head", 16),
]
QUICK = ProfileSettings(threads=1, seconds=0.05, mixed=4, calls=10)


@pytest.fixture(scope="module")
def table(searched_net: Any) -> LatencyTable:
    template, placement = searched_net
    return profile(template, placement, EDGES, runtime_named("onnxruntime"), QUICK)


def test_every_layer_is_timed_at_every_native_precision_and_below_8_bits(table: LatencyTable) -> None:
    found = {(time.layers[0], time.weight_bits, time.act_bits) for time in table.times}
    assert found == {(layer, bits, bits) for layer in SEARCHED for bits in (7, 8, 32)} | {
        ("stem", 8, 8),
        ("head", 8, 8),
    }
    assert (table.threads, table.batch, table.model) == (1, 1, "tiny")
    assert all(time.low_ms is not None for time in table.times)


def test_the_tables_sums_are_the_uniform_graphs_times(table: LatencyTable, searched_net: Any) -> None:
    bones = skeleton_of(searched_net[1], EDGES, ((7, 7), (8, 8), (32, 32)))
    figures = {key: guess.ms for key, guess in from_table(bones, table).items()}
    for one in table.observations:
        if one.name.startswith("uniform"):
            # Calls of some hundredths of a millisecond on a shared machine.
            assert predict(figures, bones.row(one.pairs)) == pytest.approx(one.measured_ms, rel=0.3)


def test_every_mixed_graph_was_predicted_by_a_table_that_did_not_know_it(table: LatencyTable) -> None:
    assert len(errors(table)) == 4
    assert [one.predicted_ms is None for one in table.observations] == [True] * 3 + [False] * 4


class RefusesTheSecond(OnnxRuntime):
    """Builds engines, as a GPU's runtime does; of the second mixed graph none."""

    name = "onnxruntime"

    def __init__(self, options: EngineOptions | None = None) -> None:
        super().__init__()
        self.options = options or EngineOptions()

    def with_options(self, options: EngineOptions) -> "RefusesTheSecond":
        return type(self)(options)

    def engine(self, path: Path, *, threads: int | None = None) -> Engine:
        if path.name == "4.onnx":  # behind three uniform ones and the first mixed one
            raise ModelError("no implementation for node_stem")
        return super().engine(path, threads=threads)


def test_a_graph_of_which_no_engine_is_built_is_left_out_with_the_reason(searched_net: Any, tmp_path: Path) -> None:
    template, placement = searched_net
    found = profile(template, placement, EDGES, RefusesTheSecond(), QUICK)
    assert found.refused == {"mixed 2": "no implementation for node_stem"}
    assert [one.name for one in found.observations if one.name.startswith("mixed")] == ["mixed 1", "mixed 3", "mixed 4"]
    write_record(found, tmp_path / "table.json")
    assert load_record(LatencyTable, tmp_path / "table.json").refused == found.refused


def test_the_table_survives_json(table: LatencyTable, tmp_path: Path) -> None:
    write_record(table, tmp_path / "table.json")
    again = load_record(LatencyTable, tmp_path / "table.json")
    assert again.times == table.times
    assert again.observations == table.observations


def test_mixed_policies_differ_and_keep_layers_that_read_one_tensor_together(searched_net: Any) -> None:
    policies = list(mixed_policies(searched_net[1], ((8, 8), (32, 32)), 8, seed=0).values())
    assert len({tuple(policy.values()) for policy in policies}) > 2
    assert all(set(policy) == set(SEARCHED) for policy in policies)


def test_layers_times_add_up_to_all_nodes_behind_the_first_layer(searched_net: Any, tmp_path: Path) -> None:
    import onnx

    from limpq_deploy.export.runtimes.onnxruntime.profile import profile_nodes
    from limpq_deploy.export.timing.timing_graph import timing_graph

    template, placement = searched_net
    onnx.save(timing_graph(template, placement, dict.fromkeys(SEARCHED, (4, 4))), tmp_path / "m.onnx")
    runtime = runtime_named("onnxruntime")
    layers = layer_times(runtime, tmp_path / "m.onnx", threads=1, calls=5)
    nodes = profile_nodes(runtime, tmp_path / "m.onnx", threads=1, calls=5).nodes
    assert set(layers) == {*SEARCHED, "stem", "head"}
    assert "Clip" in layers["block1.conv1"].op
    assert "QLinearAdd" in layers["block1.conv2"].op
    assert len(nodes) > len(layers)


def test_cpu_time_is_that_of_one_thread() -> None:
    with pytest.raises(ValueError, match="CPU time is that of one thread"):
        ProfileSettings(cpu_time=True)
