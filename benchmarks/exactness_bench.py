"""One model of `exactness.py`: quantized, exported in both dialects, and compared code by code."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper

from limpq_deploy.calibration.batchnorm import reestimate_batchnorm
from limpq_deploy.calibration.numbers.params import Scales
from limpq_deploy.export.lint.check import lint
from limpq_deploy.export.qdq.build import build_qdq
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.records.targets import TargetSpec
from limpq_deploy.export.reference.executor import IntegerReference
from limpq_deploy.export.reference.parity import TensorParity, compare_codes, merged
from limpq_deploy.export.runtimes import runtime_named
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.model.place import place
from limpq_deploy.quant.fold_model import beyond_float32, integer_model
from limpq_deploy.quant.folded_forward import as_recorded
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy
from limpq_deploy.quant.torch_parity import Fed, compare_trained
from limpq_deploy.train.accuracy import predictor
from limpq_deploy.train.evaluate import Evaluation, evaluate

Images = NDArray[np.float32]
Batches = Sequence[Images]

SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A float model for one target, with its template; made once for all its bit-widths."""

    name: str
    traced: TracedModel
    target: TargetSpec
    template: onnx.ModelProto
    first: torch.Tensor
    out: Path

    def model(self, policy: Mapping[str, BitPair], scales: Scales) -> QuantizedModel:
        """First scales from real images; nothing is trained."""
        placement = place(self.traced, self.target, model=self.name)
        model = model_of_policy(self.traced, placement, policy, scales=scales)
        model.initialise_scales(self.first)
        model.set_bits(policy)
        return model.eval()

    def file(self, model: QuantizedModel, policy: Mapping[str, BitPair], name: str) -> Path:
        layers, acts = integer_model(model, dict(policy))
        path = self.out / f"{self.name.replace('/', '-')}-{name}.onnx"
        onnx.save(build_qdq(self.template, model.placement, layers, acts, {}), path)
        return path

    def mixed(self) -> dict[str, BitPair]:
        """2 to 8 bits at random, one activation width for layers that read one tensor."""
        placement = place(self.traced, self.target, model=self.name)
        random = np.random.default_rng(SEED)
        acts = {layer.input: int(random.integers(2, 9)) for layer in placement.searched}
        return {layer.name: (int(random.integers(2, 9)), acts[layer.input]) for layer in placement.searched}

    def uniform(self, weight: int, act: int) -> dict[str, BitPair]:
        placement = place(self.traced, self.target, model=self.name)
        return {layer.name: (weight, act) for layer in placement.searched}


def case_of(name: str, traced: TracedModel, target: TargetSpec, first: torch.Tensor, out: Path) -> Case:
    placement = place(traced, target, model=name)
    template = float_template(traced, placement)
    return Case(name=name, traced=traced, target=target, template=template, first=first, out=out)


def settled(model: torch.nn.Module, images_NCHW: torch.Tensor) -> None:
    """BatchNorm of fresh weights: statistics of real images, gammas of both signs."""
    generator = torch.Generator().manual_seed(SEED)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            signs = torch.where(torch.rand(module.weight.shape, generator=generator) < 0.1, -1.0, 1.0)
            module.weight.data = signs * (0.7 + 0.6 * torch.rand(module.weight.shape, generator=generator))
            module.bias.data = 0.2 * torch.randn(module.bias.shape, generator=generator)
    reestimate_batchnorm(model, [images_NCHW])


def compare_integers(
    case: Case, model: QuantizedModel, policy: Mapping[str, BitPair], batches: Batches, name: str
) -> dict[str, Any]:
    """Reference against the optimised runtime, and the trained model against the reference, on the same images."""
    path = case.file(model, policy, name)
    runtime, reference = runtime_named("onnxruntime"), IntegerReference(path)
    session, watched = runtime.load(path), runtime.watch(path)
    layers, acts = integer_model(model, dict(policy))
    parts: list[TensorParity] = []
    different = 0

    def fed() -> Iterator[Fed]:
        nonlocal different
        for images in batches:
            logits, codes = reference.run(images, keep=[*reference.code_tensors, *watched.watched])
            found = session.run(images)
            different += int((logits.view(np.int32) != found.view(np.int32)).sum())
            _, seen = watched.run(images)
            parts.extend(compare_codes(tensor, codes[tensor], seen[tensor]) for tensor in watched.watched)
            yield Fed(images, codes, found)

    trained = compare_trained(case.traced, model, layers, acts, fed())
    checked = lint(path, case.target)
    runs = merged(parts)
    bounds = beyond_float32(model.placement, layers, acts)
    return {
        "images": trained.images,
        "elements": sum(entry.elements for entry in runs),
        "mismatches_reference": sum(entry.mismatches for entry in runs) + different,
        "unwatched": len(watched.unwatched),
        **_layer_by_layer(trained.faithful),
        "end_to_end_mismatches": sum(entry.mismatches for entry in trained.end_to_end),
        "end_to_end_elements": sum(entry.elements for entry in trained.end_to_end),
        "end_to_end_max_lsb": max(entry.max_lsb for entry in trained.end_to_end),
        "trained_logits_equal": trained.logits_equal,
        "top1_agreement": trained.agreement,
        "disagreements": [[one.image, one.trained, one.runtime] for one in trained.disagreements],
        "float_conv_add_gemm": len(checked.float_compute),
        "sums_may_exceed_2^24": bounds,
    }


def compare_as_written(
    case: Case, model: QuantizedModel, policy: Mapping[str, BitPair], batches: Batches, name: str
) -> dict[str, Any]:
    """The trained model against TensorRT's file, executed as written (ONNX Runtime, every optimisation off)."""
    path = case.file(model, policy, name)
    run = as_written(onnx.load(path))
    layers, acts = integer_model(model, dict(policy))
    trained = compare_trained(case.traced, model, layers, acts, (Fed(b, *run(b)[::-1]) for b in batches))
    return {
        "images": trained.images,
        "elements": sum(entry.elements for entry in trained.end_to_end),
        **_layer_by_layer(trained.faithful),
        "end_to_end_mismatches": sum(entry.mismatches for entry in trained.end_to_end),
        "trained_logits_equal": trained.logits_equal,
    }


def as_written(model: onnx.ModelProto) -> Callable[[Images], tuple[Images, dict[str, NDArray[Any]]]]:
    """Images -> (logits, codes of every quantizer of activations)."""
    import onnxruntime as ort

    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(images: Images) -> tuple[Images, dict[str, NDArray[Any]]]:
        logits, *codes = session.run(["logits", *names], {"images": images})
        return logits, dict(zip(names, codes, strict=True))

    return run


def accuracies(
    case: Case, model: QuantizedModel, policy: Mapping[str, BitPair], data: Sequence[Any], name: str
) -> dict[str, Any]:
    """Top-1 of the exported file and of the trained model as it is recorded, and as it was before folding."""
    session = runtime_named("onnxruntime").load(case.file(model, policy, name))
    exported = evaluate(session.run, data)
    unfolded = evaluate(predictor(model), data)
    with as_recorded(model, policy):
        recorded = evaluate(predictor(model), data)
    return {
        "images": exported.accuracy.images,
        "top1_exported": exported.accuracy.top1,
        "top1_trained": recorded.accuracy.top1,
        "other_class": _other(exported, recorded),
        "top1_before_folding": unfolded.accuracy.top1,
        "other_class_before_folding": len(_other(exported, unfolded)),
    }


def _other(first: Evaluation, second: Evaluation) -> list[int]:
    return np.flatnonzero(first.predictions != second.predictions).tolist()


def _layer_by_layer(parts: Sequence[TensorParity]) -> dict[str, Any]:
    return {
        "layer_elements": sum(entry.elements for entry in parts),
        "layer_mismatches": sum(entry.mismatches for entry in parts),
        "max_lsb": max(entry.max_lsb for entry in parts),
        "largest_tie_distance": max(entry.max_tie_distance or 0.0 for entry in parts),
    }
