"""One network of the zoo quantized to 8 bits everywhere, nothing trained, and its files checked for each target:

- the graph that is placed and the float file against the network's own module (`quant.given_parity`);
- ONNX's checker, the target's lint (for TensorRT with NVIDIA's compiler, where it is installed) and a run;
- parity: integer reference against ONNX Runtime, and the quantized model in torch layer by layer;
- agreement with float: correlation of the file's outputs with the network's own, beside that of two plain min/max W8A8
  (`zoo_plain.py`).

Weights are random, and no parameter is left constant, so that none which is read wrongly goes unseen (layer scales of
1e-6, biases of 0). Images are smooth noise. They are of 96 pixels, where the network takes such, else of its own size.
"""

import copy
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from zoo_plain import plain_outputs

from limpq_deploy.calibration.batchnorm import reestimate_batchnorm
from limpq_deploy.calibration.datasets import Preprocess, Split
from limpq_deploy.calibration.numbers.ranges import DEAD
from limpq_deploy.export.lint.check import lint
from limpq_deploy.export.qdq.build import build_qdq, strip_markers
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.records.targets import TargetSpec, target_named
from limpq_deploy.export.records.tensorrt_versions import form_for
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime, open_as_written
from limpq_deploy.model.channel_ranges import equalise_channels
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.given_model import in_float32, plain
from limpq_deploy.model.layers import TracedModel, trace
from limpq_deploy.model.place import place
from limpq_deploy.model.results import tensors_of
from limpq_deploy.model.zoo import IMAGENET_PREPROCESS, create_model
from limpq_deploy.pipeline.stages.compared import against_reference, as_written
from limpq_deploy.quant.fold_model import integer_model
from limpq_deploy.quant.given_parity import Given, compare_placed, compare_template, run_given
from limpq_deploy.quant.quantized_model import QuantizedModel, model_of_policy
from limpq_deploy.quant.torch_parity import compare_trained
from limpq_deploy.train.ptq import set_ranges

CALIBRATED, COMPARED = 4, 2
"""Images for ranges, and for comparisons."""
SIDES = (96, 128)
BITS: BitPair = (8, 8)
GPUS = ("sm89",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """``faults``: what makes the file wrong, a sentence each. ``given``: largest relative difference of the float forms
    from the network itself. ``findings`` of lint by severity. ``compiler``: what NVIDIA's says (None: not asked).
    ``codes`` compared with the runtime and ``mismatches``; ``islands`` of float and what differs behind them;
    ``layer_mismatches`` of ``layer_codes``: layer by layer, the quantized torch model, by ``layer_lsb`` steps at most.
    ``correlation`` with float, the least over outputs; that of ``plain`` min/max, which quantizes layers alone, and of
    ``min_max`` at the file's own places. ``seconds`` for all of it, under the machine's load."""

    side: int
    faults: tuple[str, ...]
    given: float
    findings: dict[str, int]
    compiler: str | None
    codes: int
    mismatches: int
    islands: int
    island_mismatches: int
    layer_codes: int
    layer_mismatches: int
    layer_lsb: int
    correlation: float
    plain: float | None = None
    min_max: float | None = None
    seconds: float = field(default=0.0)


def export_all(name: str, targets: Sequence[str]) -> dict[str, Checked]:
    """What was found of the files, by target. Raises what stops an export."""
    made, raw, split = prepared(name)
    given = run_given(lambda: made, torch.from_numpy(split.load(np.arange(COMPARED))[0]), raw)
    traced = equalise_channels(copy.deepcopy(raw))
    found = {}
    for target in map(target_named, targets):
        start = time.monotonic()
        checked = export(name, target, given, raw, traced, split)
        plainest, there = plain_correlations(name, target, given, raw, split)
        found[target.name] = replace(checked, plain=plainest, min_max=there, seconds=round(time.monotonic() - start, 1))
    return found


def prepared(name: str) -> tuple[nn.Module, TracedModel, Split]:
    """A network with its numbers varied, as it is and traced, and its images."""
    torch.manual_seed(0)
    module, info = create_model(name)
    in_float32(module)
    made = plain(module)
    vary(made.model)
    preprocess = _smaller(made.model, info.preprocess or IMAGENET_PREPROCESS)
    split = noise(preprocess)
    images, _ = split.load(np.arange(CALIBRATED))
    reestimate_batchnorm(made.model, [torch.from_numpy(images)])
    return made.model, trace(made.model, preprocess.shape), split


def plain_correlations(
    name: str, target: TargetSpec, given: Given, raw: TracedModel, split: Split
) -> tuple[float, float]:
    """Those of `Checked`, ``plain`` and ``min_max``, with the network's own outputs."""
    seen = torch.from_numpy(split.load(np.arange(CALIBRATED))[0])
    plainest = plain_outputs(raw, seen, given.images_NCHW, symmetric=not target.unsigned_acts)
    model = min_max_model(raw, place(raw, target, model=name), split)
    with torch.no_grad():
        there = [one.numpy() for one in tensors_of(model(given.images_NCHW))]
    least = (min(map(correlation, given.outputs, outputs)) for outputs in (plainest, there))
    first, second = (round(one, 4) for one in least)
    return first, second


def min_max_model(raw: TracedModel, placement: Placement, split: Split) -> QuantizedModel:
    """The quantized model whose ranges clip nothing, and of which nothing was equalised or chosen."""
    policy = {layer.name: BITS for layer in placement.searched}
    model = model_of_policy(raw, placement, policy, scales="free", share=True)
    set_ranges(model, split, ranges="minmax", images=CALIBRATED, seed=0)
    model.set_bits(policy)
    return model.eval()


def export(name: str, target: TargetSpec, given: Given, raw: TracedModel, traced: TracedModel, split: Split) -> Checked:
    placement = place(raw, target, model=name)
    apart = [compare_placed(given, traced, raw, placement)]
    template = float_template(traced, placement, form_for(target).opset)
    apart.append(compare_template(given, strip_markers(template), raw)[0] or 0.0)
    policy = {layer.name: BITS for layer in placement.searched}
    model = model_of_policy(traced, placement, policy, scales="free")
    set_ranges(model, split, ranges="mse", images=CALIBRATED, seed=0)
    model.set_bits(policy)
    layers, acts = integer_model(model, policy)
    file = build_qdq(template, placement, layers, acts, {})
    images = given.images_NCHW.numpy()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.qdq.onnx"
        path.write_bytes(file.SerializeToString())
        onnx.checker.check_model(str(path), full_check=True)
        tensorrt = target.clip == "float"
        linted = lint(path, target, compiler=tensorrt, gpus=GPUS)
        faults += [f"{one.node}: {one.consequence}" for one in linted.findings if one.severity == "refused"]
        compared = (as_written if tensorrt else against_reference)(path, [images], OnnxRuntime())
        trained = compare_trained(traced, model, layers, acts, compared[1])
    results = open_as_written(file, ()).run_feeds({file.graph.input[0].name: images})
    report, word = compared[0], linted.compiler
    faults += _unequal(report.mismatches, max((one.max_lsb for one in trained.faithful), default=0))
    correlations = [
        correlation(own, results[output.name]) for own, output in zip(given.outputs, file.graph.output, strict=True)
    ]
    faults += [f"output {number} is not finite" for number, one in enumerate(correlations) if not np.isfinite(one)]
    if word is not None and word.accepted is False:
        faults.append(word.detail)
    severities = [one.severity for one in linted.findings]
    return Checked(
        side=placement.input_shape[-1],
        faults=tuple(faults),
        given=max(apart),
        findings={severity: severities.count(severity) for severity in sorted(set(severities))},
        compiler=None if word is None or word.accepted is None else word.detail,
        codes=report.elements,
        mismatches=report.mismatches,
        islands=len(report.islands),
        island_mismatches=sum(one.mismatches for one in report.islands),
        layer_codes=sum(one.elements for one in trained.faithful),
        layer_mismatches=sum(one.mismatches for one in trained.faithful),
        layer_lsb=max((one.max_lsb for one in trained.faithful), default=0),
        correlation=round(min(correlations), 4),
    )


def _unequal(mismatches: int, steps: int) -> Iterator[str]:
    if mismatches:
        yield f"{mismatches} codes of the integer reference are others on ONNX Runtime"
    if steps > 1:
        yield f"codes of the quantized torch model are up to {steps} steps from the file's"


def vary(model: nn.Module) -> None:
    """Give constant parameters values that differ: zeros small ones, others some between half and three halves."""
    with torch.no_grad():
        for parameter in model.parameters():
            first = parameter.flatten()[0].item()
            if parameter.is_floating_point() and parameter.eq(first).all():
                if abs(first) <= DEAD:
                    parameter.copy_(0.1 * torch.randn_like(parameter))
                else:
                    parameter.copy_(0.5 + torch.rand_like(parameter))


def _smaller(model: nn.Module, preprocess: Preprocess) -> Preprocess:
    """The images of the fewest pixels that the network takes."""
    for side in SIDES:
        if side >= preprocess.height:
            break
        small = replace(preprocess, height=side, width=side, resize=side)
        try:
            with torch.no_grad():
                model.eval()(torch.zeros(1, *small.shape))
            trace(model, small.shape)
        except Exception:  # it takes one size alone, each network says so in its own way
            continue
        return small
    return preprocess


def noise(preprocess: Preprocess) -> Split:
    """Smooth pictures, with numbers for labels."""
    random = np.random.default_rng(0)
    count = CALIBRATED
    coarse = torch.from_numpy(random.uniform(0, 255, (count, 3, 8, 8)))
    fine = nn.functional.interpolate(coarse, (preprocess.height, preprocess.width), mode="bicubic").numpy()
    grainy = fine + random.normal(0, 20, fine.shape)
    pixels = np.clip(grainy, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return Split(labels=np.arange(count), read=lambda index: pixels[index], preprocess=preprocess)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's, over all elements."""
    if first.shape != second.shape or not np.isfinite(second).all():
        return float("nan")
    if first.std() == 0 or second.std() == 0:
        return float(np.array_equal(first, second))
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])
