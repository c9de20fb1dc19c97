"""TensorRT-RTX is a row of its own with TensorRT's rules: its files say whose they are."""

from dataclasses import replace
from typing import Any

import pytest

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.export.lint.check import lint, static_findings
from limpq_deploy.export.qdq.build import build_qdq
from limpq_deploy.export.records.targets import ONNXRUNTIME, TENSORRT, target_named
from limpq_deploy.export.records.tensorrt_versions import form_for, form_of, target_of
from limpq_deploy.export.timing.as_deployed import misfit
from limpq_deploy.pipeline.config import make_config

RTX = target_named("tensorrt_rtx")


def written(edges: Any, target: str, version: str | None) -> Any:
    net, logits = edges(1)
    form = form_for(target_named(target), version)
    template = net.template(logits)
    template.opset_import[0].version = form.opset
    return build_qdq(template, replace(net.placement, target=target), net.layers, net.acts, {}, form)


def test_its_file_says_whose_it_is_and_has_a_writer_of_its_own(edges: Any) -> None:
    ours, other = written(edges, "tensorrt_rtx", None), written(edges, "tensorrt", "11")
    assert target_of(ours) is RTX
    assert target_of(other) is TENSORRT
    assert form_of(ours, TENSORRT) is form_of(ours, RTX) is RTX.forms[0]
    ends = [{node.output[0] for node in model.graph.node if node.op_type == "Cast"} for model in (ours, other)]
    assert ("block1.conv1.float" in ends[0], "block1.conv1.float" in ends[1]) == (True, False)


def test_rules_and_doubts_are_those_of_its_dialect(edges: Any) -> None:
    model = written(edges, "tensorrt_rtx", None)
    assert list(static_findings(model, RTX)) == list(static_findings(model, TENSORRT)) == []
    assert lint(model, RTX).tensorrt == "1"
    assert misfit(model, "tensorrt") is None
    said = misfit(model, ONNXRUNTIME.name)
    assert said is not None
    assert "written for TensorRT-RTX 1" in said
    assert "--runtime tensorrt_rtx, or a file exported for onnxruntime" in said


def test_settings_of_a_builder_that_chooses_nothing_are_refused() -> None:
    assert make_config({"target": "tensorrt_rtx", "batch": "1:2:4"}).engine_options is not None
    for name, value in (
        ("builds", 2),
        ("builder_level", 5),
        ("workspace_mib", 100),
        ("tf32", False),
        ("tensorrt", "11"),
    ):
        with pytest.raises(SettingError, match=r"has no effect without --target tensorrt$"):
            make_config({"target": "tensorrt_rtx", name: value})
