"""The float graph that all graphs of a build are made from."""

import copy

import onnx
import torch

from limpq_deploy.export.graph.from_torch import export_and_alone
from limpq_deploy.export.graph.refilled import emptied, refilled
from limpq_deploy.model.float_template import marked_graph
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.pipeline.context import Subject
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.train.kept_memory import let_go


def make_template(subject: Subject, traced: TracedModel) -> onnx.ModelProto:
    """The float graph with a marker at every quantizer's place, from which all graphs of the build are made. It is
    exported once; for other weights those of that graph are exchanged, where that is all that differs.

    A traced model that nobody else holds is gone before the export begins.
    """
    placement = subject.placement
    marked = marked_graph(traced, placement, share=True)
    del traced
    let_go()
    tensors = marked.state_dict().items()
    state = {name: tensor.numpy() for name, tensor in tensors if not name.endswith("num_batches_tracked")}
    template = None if subject.empty_graph is None else refilled(subject.empty_graph, state)
    if template is None:
        template, alone = export_and_alone(marked, placement.input_shape, subject.form.opset)
        subject.empty_graph = emptied(template, state, alone)
    del marked, tensors, state
    let_go()
    return template


def template_of(
    subject: Subject, traced: TracedModel, template: onnx.ModelProto, model: QuantizedModel
) -> onnx.ModelProto:
    """The template whose float operators have a trained model's parameters: the float model's own, where training left
    them alone."""
    state, own = model.float_state(), traced.graph_module.state_dict()
    if all(torch.equal(tensor.cpu(), own[name].cpu()) for name, tensor in state.items() if name in own):
        return template
    carrying = copy.deepcopy(traced)
    carrying.graph_module.load_state_dict(state, strict=False)
    return make_template(subject, carrying)
