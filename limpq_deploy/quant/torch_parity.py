"""The trained torch model against the exported one, layer by layer.

Every quantizer is fed with the codes of the integer reference, so that no step of one layer is amplified by the next.
Each then says which codes it would have given itself. Two torch models are asked: one with BatchNorm folded and biases
as exported (``faithful``: only float32 rounding is left, so at most one step, at ties), and the model as it was
trained (``folding``: what folding and bias rounding themselves change). Then the trained model, with folded weights
and biases, as its accuracy is recorded, runs alone from the images on (``end_to_end``).
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from limpq_deploy.calibration.numbers.float8 import FP8_NUMBERS, LAST_PLACE, fp8_places
from limpq_deploy.calibration.numbers.params import QuantParams
from limpq_deploy.calibration.numbers.rounding import codes_of, to_codes
from limpq_deploy.calibration.observe import watching_inputs
from limpq_deploy.export.qdq.base import Layers
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.export.reference.parity import Disagreement, Fed, TensorParity, compare_codes, merged
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.model.place import QUANTIZERS, with_quantizers
from limpq_deploy.model.results import tensors_of
from limpq_deploy.quant.fake_quant import quantize
from limpq_deploy.quant.folded_forward import exported_layer, folded_forward
from limpq_deploy.quant.modules import application
from limpq_deploy.quant.quantized_model import QuantizedModel
from limpq_deploy.quant.runtime_arithmetic import compute_as_exported

CODES_SUFFIX = "_codes"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedParity:
    """What the comparison found; ``agreement`` is the share of images with the same top-1 class end to end (None where
    the outputs are no logits), and ``logits_equal`` says whether all outputs are equal, bit by bit."""

    faithful: tuple[TensorParity, ...]
    folding: tuple[TensorParity, ...]
    end_to_end: tuple[TensorParity, ...]
    logits_equal: bool
    images: int
    agreement: float | None
    disagreements: tuple[Disagreement, ...]


def compare_trained(
    traced: TracedModel,
    model: QuantizedModel,
    layers: Layers,
    acts: Mapping[str, QuantParams],
    batches: Iterable[Fed],
) -> TrainedParity:
    """Feed reference codes through both torch models, and run the trained model end to end beside the runtime."""
    folded_counts: dict[str, TensorParity] = {}
    trained_counts: dict[str, TensorParity] = {}
    folded, folded_feeds = _folded(traced, model, layers, acts, folded_counts)
    trained, trained_feeds = _as_trained(model, acts, trained_counts)
    images = agreed = 0
    equal, classes = True, False
    own: list[TensorParity] = []
    disagreements: list[Disagreement] = []
    model.eval()
    with torch.no_grad():
        for batch in batches:
            tensor = torch.from_numpy(batch.images_NCHW)
            for fed_model, feeds in ((folded, folded_feeds), (trained, trained_feeds)):
                for feed in feeds:
                    feed.start(batch.codes)
                fed_model(tensor)
            with folded_forward(model, layers):
                given, codes = codes_given(model, tensor)
            logits, *others = [output.numpy() for output in tensors_of(given)]
            for name, found in codes.items():
                reference = batch.codes[name]
                own.append(compare_codes(name, found.reshape(reference.shape), reference))
            pairs = zip((logits, *others), (batch.logits, *batch.others), strict=True)
            equal = equal and all(one.tobytes() == other.tobytes() for one, other in pairs)
            images += len(logits)
            if others or logits.ndim != 2:
                continue
            classes = True
            mine, theirs = logits.argmax(1), batch.logits.argmax(1)
            before = images - len(mine)
            for index in np.flatnonzero(mine != theirs):
                disagreements.append(
                    Disagreement(image=before + int(index), trained=int(mine[index]), runtime=int(theirs[index]))
                )
            agreed += int((mine == theirs).sum())
    return TrainedParity(
        faithful=tuple(folded_counts.values()),
        folding=tuple(trained_counts.values()),
        end_to_end=merged(own),
        logits_equal=equal and images > 0,
        images=images,
        agreement=agreed / images if classes else None,
        disagreements=tuple(disagreements),
    )


def codes_given(model: QuantizedModel, images_NCHW: torch.Tensor) -> tuple[Any, dict[str, NDArray[np.integer]]]:
    """What a model gives at one policy, and the container codes (of FP8 numbers the places) of each of its quantizers,
    by their exported names."""
    spec = model.placement.spec
    calls: dict[str, int] = {}
    codes: dict[str, NDArray[np.integer]] = {}

    def look(name: str, values: torch.Tensor) -> None:
        module = model.act_quantizer(name)
        calls[name] = calls.get(name, 0) + 1
        if module.passes:
            return
        own, grid = quantize(values, module.scales.scale(0), module.scales.grids[0]), module.scales.grids[0]
        if grid.fp8:
            codes[_tensor(name, calls[name])] = fp8_places(own.numpy())
            return
        zero_point = spec.zero_point(signed=module.placed.signed, offset=module.placed.offset)
        codes[_tensor(name, calls[name])] = (own + zero_point).numpy().astype(spec.act_container)

    modules = {placed.name: model.act_quantizer(placed.name) for placed in model.placement.quantizers}
    with watching_inputs(modules, look), torch.no_grad():
        logits = model(images_NCHW)
    return logits, codes


def _tensor(name: str, call: int) -> str:
    """The exported name of a quantizer's codes, on its first edge and on later ones."""
    return name + CODES_SUFFIX + (f"_{call}" if call > 1 else "")


class _FedQuantizer(nn.Module):
    """Compares the codes that its input gives with the reference's, and passes the reference's on."""

    def __init__(self, name: str, params: QuantParams, zero_point: int, counts: dict[str, TensorParity]) -> None:
        super().__init__()
        self.name = name
        self.grid = params.grid
        self.scale = torch.tensor(np.float32(params.scale[0]))
        self.zero_point = zero_point
        self.counts = counts
        self.codes: Mapping[str, NDArray[np.integer]] = {}
        self.calls = 0

    def levels(self) -> torch.Tensor:
        """All values that it gives, ascending."""
        return codes_of(self.grid) * self.scale

    def start(self, codes: Mapping[str, NDArray[np.integer]]) -> None:
        self.codes = codes
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        tensor = _tensor(self.name, self.calls)
        given, fp8 = self.codes[tensor], self.grid.fp8
        numbers = FP8_NUMBERS[given + LAST_PLACE] if fp8 else given.astype(np.float32) - self.zero_point
        fed = torch.from_numpy(numbers).reshape(x.shape)
        steps = x / self.scale
        own = to_codes(steps, self.grid)
        off = (own - fed).abs()
        wrong = off > 0
        tie = ((steps[wrong] - steps[wrong].floor()) - 0.5).abs()
        if fp8:  # steps are of several sizes: a tie is half-way between two neighbours
            tie = (steps[wrong] - (own[wrong] + fed[wrong]) / 2).abs() / off[wrong]
            off = torch.from_numpy(np.abs(fp8_places(own.numpy()) - given.reshape(own.shape)))
        before = self.counts.get(tensor, TensorParity(tensor=tensor, elements=0, mismatches=0, max_lsb=0))
        self.counts[tensor] = replace(
            before,
            elements=before.elements + off.numel(),
            mismatches=before.mismatches + int(wrong.sum()),
            max_lsb=max(before.max_lsb, int(off.max().item())),
            max_tie_distance=max(before.max_tie_distance or 0.0, tie.max().item() if tie.numel() else 0.0),
        )
        return fed * self.scale


def _folded(
    traced: TracedModel,
    model: QuantizedModel,
    layers: Layers,
    acts: Mapping[str, QuantParams],
    counts: dict[str, TensorParity],
) -> tuple[nn.Module, list[_FedQuantizer]]:
    placement = model.placement
    feeds = _feeds(placement, acts, counts)
    graph = with_quantizers(traced, placement, lambda one: feeds.get(one.name, nn.Identity()), share=True)
    graph.load_state_dict(model.float_state(), strict=False)
    if model.pow2:
        compute_as_exported(graph, traced, placement.spec)
    for placed in placement.layers:
        layer = graph.get_submodule(placed.name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        read = acts.get(placed.input) or acts.get(placement.quantizer(placed.input).parent or "")
        found = exported_layer(application(layer), layers[placed.name], placement.spec, read)
        graph.set_submodule(placed.name, found)
        if placed.batchnorm is not None:
            graph.set_submodule(placed.batchnorm, nn.Identity())
    return graph.eval(), list(feeds.values())


def _as_trained(
    model: QuantizedModel, acts: Mapping[str, QuantParams], counts: dict[str, TensorParity]
) -> tuple[nn.Module, list[_FedQuantizer]]:
    weights = [model.quant_layer(layer.name).weight for layer in model.placement.layers]
    fed = copy.deepcopy(model, {id(weight): weight for weight in weights})  # nothing changes them
    feeds = _feeds(model.placement, acts, counts)
    for quantizer in model.placement.quantizers:
        fed.graph.set_submodule(f"{QUANTIZERS}.{quantizer.name}", feeds.get(quantizer.name, nn.Identity()))
    return fed.eval(), list(feeds.values())


def _feeds(
    placement: Placement, acts: Mapping[str, QuantParams], counts: dict[str, TensorParity]
) -> dict[str, _FedQuantizer]:
    return {
        quantizer.name: _FedQuantizer(
            quantizer.name,
            acts[quantizer.name],
            placement.spec.zero_point(signed=quantizer.signed, offset=quantizer.offset),
            counts,
        )
        for quantizer in placement.quantizers
        if quantizer.name in acts
    }
