"""A float model that knows where its quantizers stood gives its template again, and so the same integer graph."""

from typing import Any

import onnx
import pytest
from onnx import helper

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.graph.markers import MARKERS_KEY, markers_text, with_markers
from limpq_deploy.export.qdq.build import build_qdq, strip_markers


def float_model(template: onnx.ModelProto) -> onnx.ModelProto:
    model = strip_markers(template)
    helper.set_model_props(model, {MARKERS_KEY: markers_text(template)})
    return onnx.load_from_string(model.SerializeToString())


def read(node: onnx.NodeProto) -> tuple[Any, ...]:
    """All of a node but its empty notes."""
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return node.domain, node.op_type, node.name, list(node.input), list(node.output), attributes


def test_the_template_comes_back_node_by_node(residual: Any) -> None:
    net, logits = residual(0)
    template = net.template(logits)
    found = with_markers(float_model(template))
    assert [read(node) for node in found.graph.node] == [read(node) for node in template.graph.node]
    built = [build_qdq(one, net.placement, net.layers, net.acts, {}) for one in (template, found)]
    assert built[0].SerializeToString(deterministic=True) == built[1].SerializeToString(deterministic=True)


def test_a_float_model_of_an_older_version_is_refused(residual: Any) -> None:
    net, logits = residual(0)
    with pytest.raises(ModelError, match=r"does not say where quantizers stand \(limpq\.markers\)"):
        with_markers(strip_markers(net.template(logits)))


@pytest.mark.parametrize("text", ["{", "[1]", '[{"place": 0}]'])
def test_damaged_metadata_is_refused(residual: Any, text: str) -> None:
    net, logits = residual(0)
    model = strip_markers(net.template(logits))
    helper.set_model_props(model, {MARKERS_KEY: text})
    with pytest.raises(ModelError, match="damaged metadata"):
        with_markers(model)
