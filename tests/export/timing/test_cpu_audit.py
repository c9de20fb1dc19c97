"""A CPU engine audited: planned and actual precision, times beside float, conversions."""

from pathlib import Path
from typing import Any

import onnx
import pytest

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.export.timing.cpu_audit import audit_cpu
from limpq_deploy.export.timing.engine_audit import Audit
from limpq_deploy.export.timing.timing_graph import timing_graph

SEARCHED = ("block1.conv1", "block1.conv2", "block2.conv")


@pytest.fixture(scope="module")
def audits(searched_net: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Audit]:
    template, placement = searched_net
    folder: Path = tmp_path_factory.mktemp("audit")
    onnx.save(strip_markers(template), folder / "float.onnx")
    found = {}
    for name, pair in (("integers", (8, 8)), ("floats", (32, 32))):
        onnx.save(timing_graph(template, placement, dict.fromkeys(SEARCHED, pair)), folder / f"{name}.onnx")
        runtime = runtime_named("onnxruntime")
        found[name] = audit_cpu(folder / f"{name}.onnx", folder / "float.onnx", runtime, calls=10)
    return found


def test_every_layer_has_its_precision_and_its_time_beside_float(audits: dict[str, Audit]) -> None:
    found = audits["integers"]
    assert {line.layers[0] for line in found.lines} == {"stem", *SEARCHED, "head"}
    assert all(line.as_planned and line.actual == "u8s8" for line in found.lines)
    assert all(line.time is not None and line.float_time is not None for line in found.lines)
    assert found.total_ms is not None
    assert found.reformat_ms is not None
    assert 0 < found.reformat_ms < found.total_ms
    assert found.absent == ()


def test_layers_that_the_policy_leaves_in_float_are_planned_so(audits: dict[str, Audit]) -> None:
    actual = {line.layers[0]: line.actual for line in audits["floats"].lines}
    assert {name: actual[name] for name in SEARCHED} == dict.fromkeys(SEARCHED, "float32")
    assert audits["floats"].unplanned == ()
    assert audits["floats"].reformats > audits["integers"].reformats
    assert not set(SEARCHED) & set(audits["floats"].slower)  # only integer layers can be


def test_the_audit_survives_json(audits: dict[str, Audit]) -> None:
    assert from_json(Audit, to_json(audits["integers"]), "audit") == audits["integers"]
