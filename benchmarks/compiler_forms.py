"""What NVIDIA's compiler (TensorRT-RTX) makes of forms of one quantized network: kernels, integer layers, bytes moved.

Weights are random and scales nobody's, but those of no two quantizers are equal, as after training: two that are equal
are one for the compiler. Nothing is run. Files are of the form for TensorRT 11.

Keys, by network and form: `kernels`, `integer_layers` of `layers`, `moved_mb_b1`, `moved_mb_b8` (what kernels read and
write besides weights, 1 MB = 1e6 bytes), `weights_mb`. Forms:

- `fp16`: the float model, built in FP16; `modelopt`: its int8 file by NVIDIA's ModelOpt (with ``--modelopt``);
- `w8a8`, `w4a4`, `mixed16` (layers of 8 and of 16 bits): as exported for TensorRT; `... rtx`: for TensorRT-RTX;
- `... side by side`: residual streams with two quantizers on the floats, one of the layer, one of the Add;
- `w4a4 without LeakyRelu`: the layer's quantizer straight behind the stream's DequantizeLinear;
- `w4a4 streams at 8`: layers that read a residual stream take 8 bits;
- `w16a16 rtx`: 16 bits in every searched layer, for TensorRT-RTX.

    python benchmarks/compiler_forms.py --json
    python benchmarks/compiler_forms.py --quick --json      ResNet-20 and ResNet-18
    python benchmarks/compiler_forms.py --smoke --json      resnet8
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from limpq_deploy.export.graph.markers import is_marker, marker_name
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.records.placement import BitPair, Placement
from limpq_deploy.export.records.targets import TENSORRT, TENSORRT_RTX
from limpq_deploy.export.records.tensorrt_versions import form_for
from limpq_deploy.export.runtimes.tensorrt_rtx.word import compiler_word
from limpq_deploy.export.timing.profile import mixed_policies
from limpq_deploy.export.timing.timing_graph import timing_graph
from limpq_deploy.model.float_template import float_template
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place
from limpq_deploy.model.zoo import create_model

NETWORKS = {
    "resnet20": "resnet20",
    "resnet18": "torchvision/resnet18",
    "mobilenet_v2": "torchvision/mobilenet_v2",
    "resnet50": "torchvision/resnet50",
}
QUICK = ("resnet20", "resnet18")
MODELOPT = """
import sys, numpy, onnx
from modelopt.onnx.quantization import quantize
source, made, mode = sys.argv[1:]
[image] = onnx.load(source).graph.input
shape = [size.dim_value for size in image.type.tensor_type.shape.dim][1:]
images = numpy.random.default_rng(0).standard_normal((8, *shape)).astype("float32")
quantize(onnx_path=source, output_path=made, quantize_mode=mode, calibration_data={image.name: images},
         calibration_method="max", calibration_eps=["cpu"], high_precision_dtype="fp32")
"""

GPUS = ("sm89",)
"""SM80, 86 and 120 give the same kernels and bytes (TensorRT-RTX 1.7.1)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ResNet-20 and ResNet-18")
    parser.add_argument("--smoke", action="store_true", help="resnet8, that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--modelopt", type=Path, metavar="DIR", help="where `pip install --target` put ModelOpt")
    options = parser.parse_args()
    names = {"resnet8": "resnet8"} if options.smoke else NETWORKS
    if options.quick and not options.smoke:
        names = {name: NETWORKS[name] for name in QUICK}
    started = time.perf_counter()
    found: dict[str, Any] = {}
    for name, model in names.items():
        found[name] = {}
        for form, file in forms(model, options.modelopt).items():
            found[name][form] = figures(file)
            print(name, form, json.dumps(found[name][form]), file=sys.stderr)
    environment = read_environment()
    found |= {
        "compiler": compiler_word(strip_markers(template_of("resnet8")[0]), gpus=GPUS).compiler,
        "capabilities": GPUS,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu": environment.cpu,
        "python": environment.python,
        "libraries": environment.libraries,
    }
    if options.json:
        print(json.dumps(found))


def figures(model: onnx.ModelProto) -> dict[str, Any]:
    """The compiler's word on a file, in numbers. Ends the program where the compiler is not installed or refuses."""
    word = compiler_word(model, gpus=GPUS)
    if not word.accepted:
        sys.exit(word.detail)
    moved = {batch: value for batch, value in (word.moved_bytes or {}).items() if value is not None}
    return {
        "kernels": word.kernels,
        "integer_layers": word.integer_layers,
        "layers": word.layers,
        "moved_mb_b1": round(moved["batch_1"] / 1e6, 2),
        "moved_mb_b8": round(moved["batch_8"] / 1e6, 2),
        "weights_mb": None if word.weight_bytes is None else round(word.weight_bytes / 1e6, 2),
    }


def template_of(model: str) -> tuple[onnx.ModelProto, Placement]:
    """A network with fresh weights as a template, and its placement for TensorRT."""
    torch.manual_seed(0)
    module, info = create_model(model)
    assert info.preprocess is not None
    traced = trace(module.eval(), info.preprocess.shape)
    placement = place(traced, TENSORRT, model=model)
    return float_template(traced, placement, form_for(TENSORRT, "11").opset), placement


def forms(model: str, modelopt: Path | None) -> dict[str, onnx.ModelProto]:
    """Every form of a network, by name."""
    template, placement = template_of(model)
    beside = side_by_side(template, placement)
    plain = strip_markers(template)
    found = {"fp16": plain}
    if modelopt is not None:
        found["modelopt"] = by_modelopt(plain, modelopt)
    names = [layer.name for layer in placement.searched]
    [mixed] = mixed_policies(placement, ((8, 8), (16, 16)), 1, seed=0).values()
    four: dict[str, BitPair] = dict.fromkeys(names, (4, 4))
    streams = {name for name in names if placement.quantizer(placement.layer(name).input).parent is not None}
    policies: dict[str, Mapping[str, BitPair]] = {"w8a8": dict.fromkeys(names, (8, 8)), "w4a4": four, "mixed16": mixed}
    for name, policy in policies.items():
        found[f"{name} side by side"] = trained(*beside, policy)
        found[name] = trained(template, placement, policy)
        found[f"{name} rtx"] = trained(template, replace(placement, target=TENSORRT_RTX.name), policy)
    found["w4a4 without LeakyRelu"] = without_leaky_relu(found["w4a4"])
    found["w4a4 streams at 8"] = trained(template, placement, four | dict.fromkeys(streams, (4, 8)))
    rtx = replace(placement, target=TENSORRT_RTX.name)
    found["w16a16 rtx"] = trained(template, rtx, dict.fromkeys(names, (16, 16)))
    return found


def trained(template: onnx.ModelProto, placement: Placement, policy: Mapping[str, BitPair]) -> onnx.ModelProto:
    """A stand-in in which no two activation quantizers have one scale."""
    model, random = timing_graph(template, placement, policy), np.random.default_rng(0)
    quantizers = {f"{quantizer.name}_scale" for quantizer in placement.quantizers}
    for tensor in model.graph.initializer:
        if tensor.name in quantizers:
            scale = numpy_helper.to_array(tensor) * np.float32(random.uniform(1, 1.1))
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(scale), tensor.name))
    return model


def side_by_side(template: onnx.ModelProto, placement: Placement) -> tuple[onnx.ModelProto, Placement]:
    """Re-quantizers that read the floats in front of the quantizer whose codes they read."""
    copy = onnx.ModelProto()
    copy.CopyFrom(template)
    parents = {quantizer.name: quantizer.parent for quantizer in placement.quantizers}
    made = {node.output[0]: node for node in copy.graph.node}
    for node in copy.graph.node:
        if is_marker(node) and parents[marker_name(node)] is not None:
            node.input[0] = made[node.input[0]].input[0]
    return copy, replace(placement, quantizers=tuple(replace(one, parent=None) for one in placement.quantizers))


def without_leaky_relu(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    read = {node.output[0]: node.input[0] for node in copy.graph.node if node.op_type == "LeakyRelu"}
    kept = [node for node in copy.graph.node if node.op_type != "LeakyRelu"]
    for node in kept:
        node.input[:] = [read.get(name, name) for name in node.input]
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


def by_modelopt(model: onnx.ModelProto, packages: Path, mode: str = "int8") -> onnx.ModelProto:
    """Its file of int8 or fp8 with its own defaults; scales from 8 random images. It brings an ONNX of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        environment = {**os.environ, "PYTHONPATH": os.fspath(packages.resolve())}
        command = [sys.executable, "-c", MODELOPT, str(source), str(made), mode]
        subprocess.run(command, check=True, stdout=sys.stderr, env=environment)
        return onnx.load(made)


if __name__ == "__main__":
    main()
