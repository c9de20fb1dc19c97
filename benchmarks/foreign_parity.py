"""Parity of files that onnxruntime.quantization made: integer reference against ONNX Runtime's optimised graph.

ResNet-18 (fresh weights), MobileNetV2 and ResNet-20 (trained weights; the shared data, LIMPQ_SHARED or ../shared beside
the checkout, else fresh ones) are exported by torch.onnx, pre-processed as onnxruntime recommends, quantized by
`quantize_static` in the forms of `FORMS`, and compared as `limpq-deploy parity FILE.onnx` compares them.
Images are random and reproducible, in calibration as in the comparison: arithmetic does not care what they show.

Keys: ``files`` [{``model``, ``form``, ``opset``, ``codes``, ``mismatches``, ``logits_equal``, ``islands``,
``island_codes``, ``island_mismatches``, ``unwatched``, ``seconds``}], ``mismatches`` (over all files), ``environment``.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from limpq_deploy.calibration.batchnorm import reestimate_batchnorm
from limpq_deploy.calibration.records import to_dict
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.reference.foreign_parity import compare_file
from limpq_deploy.export.runtimes.onnxruntime.session import OnnxRuntime
from limpq_deploy.model.zoo import create_model
from limpq_deploy.model.zoo.weights import load_weights

SEED = 0
U8, S8 = QuantType.QUInt8, QuantType.QInt8


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Settings of `quantize_static`."""

    name: str
    form: QuantFormat = QuantFormat.QDQ
    activations: QuantType = U8
    weights: QuantType = S8
    per_channel: bool = True
    reduce_range: bool = False
    options: tuple[str, ...] = ()

    def quantize(self, source: Path, target: Path, images: NDArray[np.float32]) -> None:
        quantize_static(
            str(source),
            str(target),
            _Reader(images),
            quant_format=self.form,
            activation_type=self.activations,
            weight_type=self.weights,
            per_channel=self.per_channel,
            reduce_range=self.reduce_range,
            extra_options=dict.fromkeys(self.options, True),
        )


FORMS = (
    Form(name="QDQ u8s8 per channel"),
    Form(name="QDQ u8s8 per tensor, 7-bit weights", per_channel=False, reduce_range=True),
    Form(name="QDQ u8u8 per tensor", weights=U8, per_channel=False),
    Form(name="QDQ s8s8 per channel, symmetric", activations=S8, options=("ActivationSymmetric",)),
    Form(name="QDQ s8s8 per channel, asymmetric", activations=S8),
    Form(name="QOperator u8s8 per channel", form=QuantFormat.QOperator),
    Form(name="QOperator u8u8 per tensor", form=QuantFormat.QOperator, weights=U8, per_channel=False),
    Form(name="QOperator s8s8 per channel", form=QuantFormat.QOperator, activations=S8),
)
OPSETS = (13, 17, 21)
"""All forms at 17, the first one at the others."""

SIDES = {"resnet20": 32, "resnet18": 224, "mobilenet_v2": 224}
NAMES = {"resnet20": "resnet20", "resnet18": "torchvision/resnet18", "mobilenet_v2": "torchvision/mobilenet_v2"}
WEIGHTS = {"resnet20": "resnet20-cifar10", "mobilenet_v2": "mobilenet_v2-imagenet"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two images a file")
    parser.add_argument("--smoke", action="store_true", help="ResNet-20 in two forms: that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--models", nargs="+", choices=list(SIDES), default=list(SIDES))
    options = parser.parse_args()
    names = ["resnet20"] if options.smoke else options.models
    images = 2 if options.quick or options.smoke else 8
    cases = [(form, opset) for opset in OPSETS for form in FORMS if opset == 17 or form is FORMS[0]]
    if options.smoke:
        cases = [(FORMS[0], 17), (FORMS[5], 17)]
    with tempfile.TemporaryDirectory() as work, quiet():
        files = [found for name in names for found in compared(name, cases, images, Path(work))]
    result = {
        "files": files,
        "mismatches": sum(found["mismatches"] for found in files),
        "images": images,
        "environment": to_dict(read_environment()),
    }
    print(json.dumps(result) if options.json else table(files))


def compared(name: str, cases: list[tuple[Form, int]], images: int, work: Path) -> Iterator[dict[str, Any]]:
    side = SIDES[name]
    model = network(name)
    prepared: dict[int, Path] = {}
    for form, opset in cases:
        if opset not in prepared:
            prepared[opset] = exported(model, side, opset, work / f"{name}-{opset}")
        path = work / "quantized.onnx"
        form.quantize(prepared[opset], path, pictures(8, side, seed=1))
        started = time.perf_counter()
        batches = [pictures(2, side, seed=2 + index) for index in range(images // 2)]
        found = compare_file(path, batches, OnnxRuntime(), threads=1)
        yield {
            "model": name,
            "form": form.name,
            "opset": opset,
            "codes": found.codes,
            "mismatches": found.mismatches,
            "logits_equal": found.logits_equal,
            "islands": len(found.islands),
            "island_codes": sum(island.codes for island in found.islands),
            "island_mismatches": sum(island.mismatches for island in found.islands),
            "unwatched": len(found.unwatched),
            "seconds": round(time.perf_counter() - started, 1),
        }
        print(f"{name}, {form.name}, opset {opset}: {found.mismatches} of {found.codes:,} codes", file=sys.stderr)


def network(name: str) -> torch.nn.Module:
    torch.manual_seed(SEED)
    model, _ = create_model(NAMES[name])
    shared = Path(os.environ.get("LIMPQ_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    weights = shared / "data" / "weights" / f"{WEIGHTS.get(name, '')}.safetensors"
    if weights.is_file():
        load_weights(model, weights)
    else:
        reestimate_batchnorm(model, [torch.from_numpy(pictures(8, SIDES[name], seed=0))])
    return model.eval()


def exported(model: torch.nn.Module, side: int, opset: int, stem: Path) -> Path:
    """By torch.onnx with a dynamic batch, and pre-processed."""
    plain, prepared = stem.with_suffix(".float.onnx"), stem.with_suffix(".prepared.onnx")
    example = (torch.zeros(2, 3, side, side),)
    names: Mapping[str, Any] = {"input_names": ["images"], "output_names": ["logits"], "opset_version": opset}
    if opset > 17:
        shapes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(model, example, plain, dynamo=True, dynamic_shapes=shapes, external_data=False, **names)
    else:
        axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(model, example, plain, dynamo=False, dynamic_axes=axes, **names)
    with contextlib.chdir(stem.parent):  # it leaves files where it runs
        quant_pre_process(str(plain), str(prepared))
    return prepared


def pictures(count: int, side: int, *, seed: int) -> NDArray[np.float32]:
    """Blurred noise around zero with a few wide outliers, NCHW."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 1, (count, 3, side // 8, side // 8)).repeat(8, 2).repeat(8, 3)
    found: NDArray[np.float32] = (coarse + random.normal(0, 0.5, (count, 3, side, side))).astype(np.float32)
    return found


class _Reader(CalibrationDataReader):
    def __init__(self, images: NDArray[np.float32]) -> None:
        self._batches = iter([{"images": images[index : index + 1]} for index in range(len(images))])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporter and quantizer print and warn; standard output is the result's."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def table(files: list[dict[str, Any]]) -> str:
    """A table in Markdown."""
    head = ("model", "form", "opset", "codes", "differ", "islands", "codes behind them", "differ", "logits")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in files:
        numbers = [f"{one[key]:,}" for key in ("codes", "mismatches", "islands", "island_codes", "island_mismatches")]
        equal = "bit-equal" if one["logits_equal"] else "differ"
        lines.append("| " + " | ".join([one["model"], one["form"], str(one["opset"]), *numbers, equal]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
