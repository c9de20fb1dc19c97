"""What a traced model gives, and which layers make it."""

from torch import fx

from limpq_deploy.model.layers import TracedModel, tensor_inputs


def output_node(traced: TracedModel) -> fx.Node:
    return next(reversed(traced.graph_module.graph.nodes))


def feeding_outputs(traced: TracedModel) -> tuple[str, ...]:
    """Names of the layers whose results become outputs, in execution order: with nothing but other operators in
    between, and at most one sum, for behind a second one a whole stage would feed the output of a backbone. Where no
    layer is so near, all that no other layer stands behind."""
    near = _layers_before(output_node(traced), traced, sums=1) or _layers_before(output_node(traced), traced, sums=None)
    return tuple(layer.name for layer in traced.layers if layer.name in near)


def _layers_before(node: fx.Node, traced: TracedModel, sums: int | None) -> set[str]:
    found: set[str] = set()
    left = [(one, sums) for one in tensor_inputs(node, traced.kinds)]
    seen: set[tuple[fx.Node, int | None]] = set()
    while left:
        one, more = left.pop()
        if (one, more) in seen:
            continue
        seen.add((one, more))
        if traced.kinds[one.name] == "layer":
            found.add(str(one.target))
            continue
        if traced.kinds[one.name] == "add" and more is not None:
            if more == 0:
                continue
            more -= 1
        left += [(before, more) for before in tensor_inputs(one, traced.kinds)]
    return found
