"""What NVIDIA's compiler (TensorRT-RTX) makes of a network in each precision: kernels, integer layers, bytes moved.

Nothing is run: bytes are no latency. Weights are random and scales nobody's. Figures are of an engine for sm89.

Keys, by network and kind: `kernels`, `integer_layers` and `fp8_layers` of `layers`, `as_floats` (layers that the file
plans in int8 or FP8 and that got floats), `moved_mb_b1`, `moved_mb_b8` (what kernels read and write besides weights, by
engines tuned for that batch; 1 MB = 1e6 bytes), `weights_mb`, `plan_mb`, `build_seconds` (of one engine). Without
``--quick``, `also` {`sm86`, `sm120`}: the same figures there, or `refused`, the reason. Kinds:

- `fp32`, `fp16`: the float model; `w8a8`, `w4a8`, `fp8` (pinned layers in int8), `mixed16` (layers of 8 and of 16
  bits): ours for TensorRT-RTX;
- `tensorrt_w8a8`: ours for data-centre TensorRT; `modelopt_int8`, `modelopt_fp8`: NVIDIA's tool's (``--modelopt``).

    python benchmarks/rtx.py --json
    python benchmarks/rtx.py --quick --json     sm89 and our kinds alone
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from compiler_forms import NETWORKS, by_modelopt, template_of, trained

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.records.targets import TENSORRT_RTX
from limpq_deploy.export.runtimes.base import CODED, keeps_plan
from limpq_deploy.export.runtimes.tensorrt.build import BuildFailed
from limpq_deploy.export.runtimes.tensorrt.inspect import planned_precision
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import cannot_build, compiler_name
from limpq_deploy.export.runtimes.tensorrt_rtx.build import compile_model
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import capabilities_named
from limpq_deploy.export.runtimes.tensorrt_rtx.record import describe
from limpq_deploy.export.runtimes.tensorrt_rtx.runtime import DEFAULT_BATCH
from limpq_deploy.export.timing.profile import mixed_policies

GPU, OTHERS = "sm89", ("sm86", "sm120")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sm89 alone, and no file but ours")
    parser.add_argument("--smoke", action="store_true", help="resnet8, that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--modelopt", type=Path, metavar="DIR", help="where `pip install --target` put ModelOpt")
    options = parser.parse_args()
    if (why := cannot_build()) is not None:
        sys.exit(why)
    short = options.quick or options.smoke
    started = time.perf_counter()
    found: dict[str, Any] = {}
    with ThreadPoolExecutor(2) as pool:  # each build is a process of its own
        for name, model in ({"resnet8": "resnet8"} if options.smoke else NETWORKS).items():
            files = kinds(model, None if short else options.modelopt, ours=short)
            found[name] = dict(
                zip(files, pool.map(partial(row, others=() if short else OTHERS), *_columns(files)), strict=True)
            )
            print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    environment = read_environment()
    found |= {
        "compiler": compiler_name(),
        "gpu": GPU,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu": environment.cpu,
        "load": os.getloadavg(),
        "python": environment.python,
        "libraries": environment.libraries,
    }
    print(json.dumps(found) if options.json else page(found))


def kinds(model: str, modelopt: Path | None, *, ours: bool) -> dict[str, onnx.ModelProto]:
    """Files of a network by kind."""
    template, placement = template_of(model)
    rtx, plain = replace(placement, target=TENSORRT_RTX.name), strip_markers(template)
    names = [layer.name for layer in placement.searched]
    [mixed] = mixed_policies(placement, ((8, 8), (16, 16)), 1, seed=0).values()
    found = {
        "fp32": plain,
        "fp16": plain,
        "fp8": trained(template, rtx, dict.fromkeys(names, (FP8, FP8))),
        "w8a8": trained(template, rtx, dict.fromkeys(names, (8, 8))),
        "w4a8": trained(template, rtx, dict.fromkeys(names, (4, 8))),
        "mixed16": trained(template, rtx, mixed),
    }
    if not ours:
        found["tensorrt_w8a8"] = trained(template, placement, dict.fromkeys(names, (8, 8)))
    if modelopt is not None:
        found |= {f"modelopt_{mode}": by_modelopt(plain, modelopt, mode) for mode in ("int8", "fp8")}
    return found


def _columns(files: dict[str, onnx.ModelProto]) -> tuple[list[onnx.ModelProto], list[EngineOptions]]:
    options = [
        EngineOptions(batch=DEFAULT_BATCH, float_type="float32" if kind == "fp32" else "float16") for kind in files
    ]
    return list(files.values()), options


def row(model: onnx.ModelProto, options: EngineOptions, others: tuple[str, ...]) -> dict[str, Any]:
    """Figures of one file."""
    return figures(model, options, GPU) | (
        {"also": {gpu: figures(model, options, gpu) for gpu in others}} if others else {}
    )


def figures(model: onnx.ModelProto, options: EngineOptions, gpu: str) -> dict[str, Any]:
    try:
        compiled = compile_model(model, options, (gpu,), report=lambda done, total, note: None)
    except BuildFailed as error:
        return {"refused": str(error)}
    engine = describe("", model, compiled, capabilities_named((gpu,)))
    assert engine.plan is not None
    assert engine.moved_bytes is not None
    planned = {layer: one for layer, one in planned_precision(model).items() if one in CODED}
    return {
        "kernels": engine.kernels,
        "integer_layers": engine.integer_layers,
        "fp8_layers": engine.fp8_layers,
        "layers": engine.layers,
        "as_floats": [layer for layer, one in planned.items() if not keeps_plan(one, engine.layer_precision[layer])],
        **{f"moved_mb_b{batch}": _mb(engine.moved_bytes[f"batch_{batch}"]) for batch in (1, 8)},
        "weights_mb": _mb(engine.weight_bytes),
        "plan_mb": _mb(engine.plan.size),
        "build_seconds": round(compiled.result.seconds, 2),
    }


def _mb(size: int | None) -> float | None:
    return None if size is None else round(size / 1e6, 2)


def page(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| network | kind | kernels | int8, FP8 of layers | moved MB, batch 1 | batch 8 | weights MB | plan MB | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for network, rows in found.items():
        for kind, one in rows.items() if isinstance(rows, dict) and network != "libraries" else ():
            told = (
                [one.get("refused")]
                if "refused" in one
                else [
                    one["kernels"],
                    f"{one['integer_layers']}, {one['fp8_layers']} of {one['layers']}",
                    *(one[key] for key in ("moved_mb_b1", "moved_mb_b8", "weights_mb", "plan_mb", "build_seconds")),
                ]
            )
            lines.append(f"| {network} | {kind} | {' | '.join(map(str, told))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
