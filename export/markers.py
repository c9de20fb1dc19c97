"""Marker nodes: where an activation quantizer stands in a float template."""

import onnx

from limpq_deploy.export.onnx_files import attribute

MARKER_DOMAIN = "limpq"
MARKER_OP = "Quantizer"


def is_marker(node: onnx.NodeProto) -> bool:
    """Whether the node marks the place of an activation quantizer."""
    return node.domain == MARKER_DOMAIN and node.op_type == MARKER_OP


def marker_name(node: onnx.NodeProto) -> str:
    """Name of the quantizer that a marker stands for."""
    return str(attribute(node, "name"))
