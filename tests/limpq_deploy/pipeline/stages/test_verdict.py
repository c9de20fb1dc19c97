"""What the verdict takes from an engine's record."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")

from limpq_deploy.calibration.records import write_record
from limpq_deploy.export.lint.check import LintReport
from limpq_deploy.export.reference.self_test import tiny_model
from limpq_deploy.pipeline.stages.verdict import unplanned_floats
from limpq_deploy.workspace.file_names import ENGINE, LINT, MODEL

from ....played_engine import played_engine


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ({}, ()),
        ({"conv1": "float16"}, ("conv1",)),
        ({"conv1": "float16", "conv2": "unknown"}, ("conv1",)),
        ({"conv2": "unknown"}, None),
        (dict.fromkeys(("stem", "conv1", "conv2", "conv3", "fc1", "fc2"), "unknown"), None),
    ],
)
def test_a_layer_of_which_the_engine_tells_nothing_is_not_said_to_run_in_float(
    tmp_path: Path, words: dict[str, str], found: tuple[str, ...] | None
) -> None:
    path = tmp_path / MODEL
    path.write_bytes(tiny_model().SerializeToString())
    engine = played_engine(path, lambda layer: words.get(layer, "int8"))
    write_record(engine, tmp_path / ENGINE)
    static = LintReport(target="tensorrt", findings=(), op_counts={}, float_compute=(), float_nodes=(), optimized=False)
    write_record(static, tmp_path / LINT)
    assert unplanned_floats(tmp_path) == found
