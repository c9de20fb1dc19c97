"""The float graph that all graphs of a build are made from."""

import onnx

from limpq_deploy.export.graph.from_torch import Marker, export_template, fold_batchnorm
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.model.place import with_quantizers
from limpq_deploy.pipeline.context import Subject


def make_template(subject: Subject, traced: TracedModel) -> onnx.ModelProto:
    """The float graph with a marker at every quantizer's place, from which all graphs of the build are made."""
    placement = subject.placement
    marked = with_quantizers(traced, placement, lambda quantizer: Marker(quantizer.name))
    fold_batchnorm(marked, {layer.name: layer.batchnorm for layer in placement.layers})
    return export_template(marked, placement.input_shape, subject.form.opset)
