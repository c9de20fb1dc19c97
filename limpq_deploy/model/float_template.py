"""The float graph that all graphs of a placement are made from."""

import onnx
from torch import fx

from limpq_deploy.export.graph.from_torch import Marker, export_template, fold_batchnorm
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.model.place import with_quantizers


def float_template(traced: TracedModel, placement: Placement, opset: int | None = None) -> onnx.ModelProto:
    """`marked_graph`, exported. ``opset``: None for the newest form of the target's files. Raises as
    `export_template` does."""
    return export_template(
        marked_graph(traced, placement), placement.input_shape, placement.spec.opset if opset is None else opset
    )


def marked_graph(traced: TracedModel, placement: Placement, *, share: bool = False) -> fx.GraphModule:
    """A copy of the traced graph with a marker at every quantizer's place, BatchNorm folded in. ``share``: as in
    `with_quantizers`."""
    marked = with_quantizers(traced, placement, lambda quantizer: Marker(quantizer.name), share=share)
    fold_batchnorm(marked, {layer.name: layer.batchnorm for layer in placement.layers})
    return marked
