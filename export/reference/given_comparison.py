"""The float forms of a model beside the model that the user gave: the rule of their comparison, and its record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import MissingExtra, RuntimeUnavailable

LIMIT = 1e-4
"""Largest relative difference that float32 sums in another order may make, see `relative_difference`."""

MOST_MACS = 5e8
"""Multiply-accumulates that ONNX's own evaluator is given; more would take minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenComparison:
    """Float forms of a model beside the user's own module in evaluation mode, on ``images`` real images, float32.

    ``differences``: by form ("placed graph", its quantizers off; "float template", the exported graph executed as
    written; "exported float model", the same with the float stage's weights), see `relative_difference`.
    ``not_compared``: forms that were not, each with the reason.
    """

    images: int
    differences: dict[str, float]
    not_compared: dict[str, str] = field(default_factory=dict)
    limit: float = LIMIT
    format: Literal["limpq.given/1"] = field(default="limpq.given/1")

    @property
    def largest(self) -> float:
        return max(self.differences.values(), default=0.0)


def relative_difference(expected: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    """``max over outputs c of  max_n |expected - found| / size[c]``, tensors [N, C, ...], n over all but C.

    ``size[c] = max(max_n |expected|, median of that over the outputs)``. Each output is held against its own largest
    value on the batch, so that one of 1e9 (a class that is masked) hides no fault in the others; and against the
    median at least, so that an output next to 0 does not turn rounding into a fault. infinite where shapes differ,
    where only one side is finite, and where all of ``expected`` is 0 and ``found`` is not.
    """
    if expected.shape != found.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    first, second = (_by_output(values) for values in (expected, found))
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    if not (np.isfinite(first) & np.isfinite(second))[~same].all():
        return float("inf")
    finite = np.where(np.isfinite(first), first, 0.0)
    off = np.abs(finite - np.where(same, finite, second)).max(1)
    size = np.abs(finite).max(1)
    size = np.maximum(size, np.median(size))
    apart = off > 0
    if (size[apart] == 0).any():
        return float("inf")
    return float((off[apart] / size[apart]).max(initial=0.0))


def run_template(
    model: onnx.ModelProto, images_NCHW: NDArray[np.float32], *, macs: int, names: Sequence[str] = ()
) -> tuple[dict[str, NDArray[np.float32]] | None, str]:
    """Results of a float ONNX model executed as written, first its own, then the inner ``names``; and by what.

    ONNX Runtime with every optimisation off, or ONNX's evaluator where that is missing and ``macs`` (of one image)
    are few. None, and why, where neither can.
    """
    try:
        from limpq_deploy.export.runtimes.onnxruntime.session import open_as_written

        session = open_as_written(model, names)
    except (MissingExtra, RuntimeUnavailable) as error:
        if macs * len(images_NCHW) > MOST_MACS:
            return None, f"{error}, and ONNX's own evaluator would take minutes"
        return _evaluated(model, images_NCHW, names), "ONNX's evaluator"
    return session.run_feeds({model.graph.input[0].name: images_NCHW}), "ONNX Runtime"


def layer_results(model: onnx.ModelProto) -> Mapping[str, str]:
    """The tensor that each layer of a template makes, by the layer's name."""
    return {
        node.input[1].removesuffix(".weight"): node.output[0]
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm") and node.input[1].endswith(".weight")
    }


def _evaluated(
    model: onnx.ModelProto, images_NCHW: NDArray[np.float32], names: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    from onnx.reference import ReferenceEvaluator

    own = [output.name for output in model.graph.output]
    wanted = [*own, *(name for name in names if name not in own)]
    results = ReferenceEvaluator(model).run(wanted, {model.graph.input[0].name: images_NCHW})
    return dict(zip(wanted, results, strict=True))


def _by_output(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """[C, elements]; a vector [N] has one output."""
    shaped = values.astype(np.float64).reshape(len(values), -1) if values.ndim < 2 else values.astype(np.float64)
    return np.moveaxis(shaped, 1, 0).reshape(shaped.shape[1], -1)
