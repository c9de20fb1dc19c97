"""The model that the user gave is the reference: what is trained and exported is held against its own module.

Tensors are compared by `export.reference.given_comparison.relative_difference`, float32, on a batch of real images.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import fx, nn

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.reference.given_comparison import (
    LIMIT,
    GivenComparison,
    layer_results,
    relative_difference,
    run_template,
)
from limpq_deploy.model.given_model import copied
from limpq_deploy.model.layers import TracedModel, tensor_inputs
from limpq_deploy.model.lines import written_at
from limpq_deploy.model.results import tensors_of
from limpq_deploy.quant.quantized_model import joint_model

IMAGES = 8
"""Real images that the float forms are compared on."""

ORDERS, WORST = 8.0, 1e-2
"""Two forms of a network round in orders of their own. Their errors against float64 are alike, but where few numbers
carry them one is up to four times the other (seen in the tests). Beyond `WORST` rounding hides any fault."""

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Given:
    """What the user's module, which ``make`` makes, gives: its outputs [N, ...]. Only where something differs is it
    made again. ``names``: of its modules that are worth watching then; what they read and gave takes many times the
    memory of the model."""

    make: Callable[[], nn.Module]
    images_NCHW: torch.Tensor
    outputs: tuple[Values, ...]
    names: tuple[str, ...]

    def watched(self) -> tuple[dict[str, Values], dict[str, Values]]:
        """What each of the modules reads and gives, by name: the user's module is run once more."""
        with _drawing_apart():
            _, read, gave = _watch(self.make().eval(), self.images_NCHW, self.names)
        return read, gave

    def allowed(self) -> float:
        """The relative difference that another order of float32 sums may make of these outputs: `LIMIT`, or `ORDERS`
        times what the module's float32 results differ from its float64 ones by, at most `WORST`."""
        try:
            with _drawing_apart():
                exact = _outputs(copied(self.make()).double().eval()(self.images_NCHW.double()))
        except Exception:  # a module may know one type only, and says so in its own way
            return LIMIT
        return min(max(LIMIT, ORDERS * _apart(exact, self.outputs)), WORST)


def run_given(make: Callable[[], nn.Module], images_NCHW: torch.Tensor, traced: TracedModel) -> Given:
    """The user's module, as ``make`` makes it, in evaluation mode, layers and BatchNorms watched.

    Raises ModelError where it gives no tensor, numbers that are not finite, or other ones when it is asked again.
    """
    names = tuple(str(node.target) for node in traced.graph_module.graph.nodes if _watched(node, traced))
    module = make().eval()
    with _drawing_apart():
        first, again = (_watch(module, images_NCHW, ())[0] for _ in range(2))
    given = Given(make, images_NCHW, first, names)
    if not all(np.isfinite(one).all() for one in first):
        wrong = [~np.isfinite(one).reshape(len(one), -1).all(1) for one in first]
        bad, images = int(np.any(wrong, axis=0).sum()), len(first[0])
        where = _first(given.watched()[1], lambda _, values: not np.isfinite(values).all())
        raise ModelError(
            f"the model itself gives numbers that are not finite for {bad} of {images} images, first in {where}; look "
            "at its weights and at the images' normalisation"
        )
    if _apart(first, again) > LIMIT / 10:
        with _drawing_apart():
            (_, _, gave), (_, _, others) = (_watch(module, images_NCHW, names) for _ in range(2))
        where = _first(gave, lambda name, values: relative_difference(values, others[name]) > LIMIT / 10)
        raise ModelError(
            f"the model gives other outputs when it is called again on the same images in evaluation mode, first in "
            f"{where}; take what is random, or remembers, out of its forward (dropout needs training=self.training)"
        )
    return given


@contextlib.contextmanager
def _drawing_apart() -> Iterator[None]:
    """Within it no gradients are kept, and random numbers that are drawn do not count outside."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        yield


def compare_placed(given: Given, traced: TracedModel, raw: TracedModel, placement: Placement) -> float:
    """Relative difference of the placed graph, its quantizers off, from the user's module. ``raw``: the traced model
    before its channels were equalised, in which the first module that differs is looked for.

    Raises ModelError that names it, beyond what `Given.allowed` says.
    """
    with torch.no_grad():
        placed = joint_model(traced, placement, (8,), share=True).eval()
        found = _outputs(placed(given.images_NCHW.clone()))
    difference = _apart(given.outputs, found)
    if not difference <= LIMIT and not difference <= given.allowed():
        _refuse("the graph that would be trained", difference, given, _first_in_graph(given, raw, placement))
    return difference


def compare_template(given: Given, template: onnx.ModelProto, traced: TracedModel) -> tuple[float | None, str]:
    """Relative difference of an exported float model, executed as written, from the user's module; None, and why,
    where nothing here can execute it. Raises ModelError that names the first layer that differs, beyond what
    `Given.allowed` says."""
    macs, images = sum(layer.macs for layer in traced.layers), given.images_NCHW.numpy()
    found, by = run_template(template, images, macs=macs)
    if found is None:
        return None, by
    difference = _apart(given.outputs, [found[output.name] for output in template.graph.output])
    if not difference <= LIMIT and not difference <= given.allowed():
        made = layer_results(template)
        inner, _ = run_template(template, images, macs=macs, names=list(made.values()))
        assert inner is not None
        _refuse("the exported float model", difference, given, _first_in_template(given, inner, made, traced))
    return difference, by


def compared(given: Given, differences: Mapping[str, float], not_compared: Mapping[str, str]) -> GivenComparison:
    within = all(difference <= LIMIT for difference in differences.values())
    return GivenComparison(
        images=len(given.outputs[0]),
        differences=dict(differences),
        not_compared=dict(not_compared),
        limit=LIMIT if within else given.allowed(),
    )


def _refuse(what: str, difference: float, given: Given, where: str) -> None:
    size = "not at all the same" if not np.isfinite(difference) else f"{difference:.2g} of their size apart"
    raise ModelError(
        f"{what} does not compute what the model itself does: outputs are {size} on {len(given.outputs[0])} real "
        f"images, {given.allowed():.2g} is allowed; {where}; write that part so that tracing sees all of it (no hooks, "
        "no state, no changes in place)"
    )


def _first_in_graph(given: Given, raw: TracedModel, placement: Placement) -> str:
    """The first module, in execution order, that reads or gives something else than in the user's own run."""
    graph = joint_model(raw, placement, (8,), share=True).eval().graph
    nodes = [node for node in raw.graph_module.graph.nodes if _watched(node, raw)]
    with torch.no_grad():
        _, read, gave = _watch(graph, given.images_NCHW, given.names)
    own_read, own_gave = given.watched()
    for node in nodes:
        name = str(node.target)
        if _differs(own_read, read, name):
            return f"the first module that differs is {_named(node, raw)}, in what it reads{_computed_by(node, raw)}"
        if _differs(own_gave, gave, name):
            return (
                f"the first module that differs is {_named(node, raw)}, which reads the same and gives something else"
            )
    last = next(node for node in reversed(raw.graph_module.graph.nodes) if node.op == "output")
    return f"all layers agree, and what stands behind them differs{_computed_by(last, raw)}"


def _first_in_template(given: Given, inner: Mapping[str, Values], made: Mapping[str, str], traced: TracedModel) -> str:
    _, gave = given.watched()
    for layer in traced.layers:
        own = gave.get(layer.batchnorm or layer.name)
        if own is None or layer.name not in made:
            continue
        found = inner[made[layer.name]]
        if found.size == own.size and relative_difference(own, found.reshape(own.shape)) > LIMIT:
            return f"the first layer that differs is {layer.name!r}, or what it reads"
    return "all its layers agree, and what stands behind them differs"


def _watch(
    module: nn.Module, images_NCHW: torch.Tensor, names: Sequence[str]
) -> tuple[tuple[Values, ...], dict[str, Values], dict[str, Values]]:
    """Outputs, and what the named submodules (those that there are) read and gave: copies, for later operations may
    change a tensor in place. Hooks of the user's own have run before."""
    read: dict[str, Values] = {}
    gave: dict[str, Values] = {}

    def hook(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def before(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], torch.Tensor):
                read.setdefault(name, _numbers(args[0]))

        def after(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                gave.setdefault(name, _numbers(output))

        return before, after

    present = dict(module.named_modules(remove_duplicate=False))
    handles = []
    for name in names:
        if name in present and not _is_more(present[name]):
            before, after = hook(name)
            handles += [
                present[name].register_forward_pre_hook(before),
                present[name].register_forward_hook(after),
            ]
    try:
        output = module(images_NCHW.clone())
    finally:
        for handle in handles:
            handle.remove()
    outputs = _outputs(output)
    if not outputs:
        raise ModelError(f"the model gives a {type(output).__name__} without any tensor; expected at least one")
    return outputs, read, gave


def _watched(node: fx.Node, traced: TracedModel) -> bool:
    return node.op == "call_module" and traced.kinds[node.name] in ("layer", "batchnorm")


def _is_more(module: nn.Module) -> bool:
    """Whether a module does more than the layer or BatchNorm of its name in the traced graph, as timm's BatchNorm with
    an activation does: its results cannot be compared."""
    return isinstance(module, nn.BatchNorm2d) and type(module).forward is not nn.BatchNorm2d.forward


def _differs(own: Mapping[str, Values], found: Mapping[str, Values], name: str) -> bool:
    return name in own and name in found and not relative_difference(own[name], found[name]) <= LIMIT


def _named(node: fx.Node, traced: TracedModel) -> str:
    return f"{str(node.target)!r} ({type(traced.graph_module.get_submodule(str(node.target))).__name__})"


def _computed_by(node: fx.Node, traced: TracedModel) -> str:
    """``, computed by add (net.py:12), relu (net.py:13)``: the calls between a node and the layers before it."""
    between: dict[fx.Node, None] = {}
    _gather(node, traced, between)
    shown = ", ".join(f"{one.name}{written_at(one)}" for one in list(between)[:4])
    return f", computed by {shown}" if shown else ""


def _gather(node: fx.Node, traced: TracedModel, between: dict[fx.Node, None]) -> None:
    for before in tensor_inputs(node, traced.kinds):
        if before not in between and traced.kinds[before.name] not in ("layer", "batchnorm", "input"):
            _gather(before, traced, between)
            between[before] = None


def _first(tensors: Mapping[str, Values], wrong: Callable[[str, Values], bool]) -> str:
    """The first module of which something holds."""
    found = next((name for name, values in tensors.items() if wrong(name, values)), None)
    return "what stands behind its layers" if found is None else f"module {found!r}"


def _outputs(result: Any) -> tuple[Values, ...]:
    return tuple(_numbers(one) for one in tensors_of(result))


def _apart(expected: Sequence[Values], found: Sequence[Values]) -> float:
    """The largest `relative_difference` of two models' outputs; infinite where there are more of one's."""
    if len(expected) != len(found):
        return float("inf")
    return max(relative_difference(one, other) for one, other in zip(expected, found, strict=True))


def _numbers(tensor: torch.Tensor) -> Values:
    return tensor.detach().float().cpu().clone().numpy()
