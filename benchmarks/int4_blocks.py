"""What NVIDIA's compiler (TensorRT-RTX) makes of 4-bit weights beside float activations: kernels and bytes.

Two encoder blocks of width 384 (16 tokens, 13 Linear layers, of which the last is pinned) with fresh weights and scales
nobody's. Nothing is run. Figures are of an engine for sm89, as in `engine.json`.

Keys, by kind of weight: `kernels`, `moved_b1`, `moved_b8` (bytes that planned kernels read and write besides weights,
of engines tuned for that batch), `weights` (bytes). Kinds: `fp16`: the float model; `int8_channel`: 4 bits in int8, a
scale a channel; `int4_channel`: INT4, a scale a channel; `int4_blocks`: INT4, a scale for each block, as exported.

    python benchmarks/int4_blocks.py --json      some seconds; there is no less of it, --quick and --smoke are the same
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import torch
from compiler_forms import GPUS
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from limpq_deploy.export.graph.from_torch import Marker, export_template, fold_batchnorm
from limpq_deploy.export.qdq.build import strip_markers
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.records.targets import TENSORRT_RTX
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import cannot_build, compiler_name
from limpq_deploy.export.runtimes.tensorrt_rtx.word import compiler_word
from limpq_deploy.export.timing.timing_graph import timing_graph
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place, with_quantizers

WIDTH, SHAPE = 384, (1, 16, 16)
NAMES = {
    "fp16": "FP16",
    "int8_channel": "4 bits in int8, a scale a channel",
    "int4_channel": "int4, a scale a channel",
    "int4_blocks": "int4 in blocks (ours)",
}


class Encoder(nn.Module):
    """A block of one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        read = self.first(tokens)
        scores = self.query(read) @ self.key(read).transpose(-1, -2) * read.shape[-1] ** -0.5
        tokens = tokens + self.out(torch.softmax(scores, -1) @ self.value(read))
        return tokens + self.down(nn.functional.gelu(self.up(self.second(tokens))))


class Net(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.blocks = nn.Sequential(Encoder(width), Encoder(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        tokens = self.patches(images_NCHW).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--quick", "--smoke"):
        parser.add_argument(name, action="store_true", help="the same: it takes seconds")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    if (why := cannot_build()) is not None:
        sys.exit(why)
    found: dict[str, Any] = {kind: figures(file) for kind, file in files()}
    environment = read_environment()
    found |= {"compiler": compiler_name(), "gpus": GPUS, "python": environment.python}
    found["libraries"] = environment.libraries
    print(json.dumps(found) if options.json else page(found))


def files() -> Iterator[tuple[str, onnx.ModelProto]]:
    """One network in all kinds. No two constants are equal, as after training: equal ones are one for the compiler."""
    torch.manual_seed(0)
    net, random = Net().eval(), np.random.default_rng(0)
    for value in net.parameters():
        nn.init.normal_(value, std=0.02)
    traced = trace(net, SHAPE)
    placement = place(traced, TENSORRT_RTX, model="int4_blocks", act_bits=16)
    marked = with_quantizers(traced, placement, lambda quantizer: Marker(quantizer.name))
    fold_batchnorm(marked, {})
    template = export_template(marked, SHAPE, TENSORRT_RTX.opset)
    yield "fp16", strip_markers(template)
    blocks = timing_graph(template, placement, {layer.name: (4, 16) for layer in placement.searched})
    for tensor in blocks.graph.initializer:
        if tensor.name.endswith(".weight_scale"):
            scale = numpy_helper.to_array(tensor)
            spread = random.uniform(1, 1.1, scale.shape)
            tensor.CopyFrom(numpy_helper.from_array((scale * spread).astype(scale.dtype), tensor.name))
    yield "int8_channel", by_channel(blocks, TensorProto.INT8)
    yield "int4_channel", by_channel(blocks, TensorProto.INT4)
    yield "int4_blocks", blocks


def by_channel(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """The same codes in another type, with the first block's scale of each row for the whole row."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    fixed = {tensor.name: tensor for tensor in made.graph.initializer}
    for node in made.graph.node:
        if any(one.name == "block_size" for one in node.attribute):
            codes, scale = (fixed[name] for name in node.input[:2])
            values = numpy_helper.to_array(codes).astype("int8")
            codes.CopyFrom(helper.make_tensor(codes.name, kind, values.shape, values.ravel().tolist()))
            scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale)[:, 0].copy(), scale.name))
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("axis", 0))
    return made


def figures(model: onnx.ModelProto) -> dict[str, int | None]:
    """The compiler's word on a file. Ends the program where it refuses."""
    word = compiler_word(model, gpus=GPUS)
    if not word.accepted:
        sys.exit(word.detail)
    moved = word.moved_bytes or {}
    return {
        "kernels": word.kernels,
        "moved_b1": moved.get("batch_1"),
        "moved_b8": moved.get("batch_8"),
        "weights": word.weight_bytes,
    }


def page(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| weights | kernels | moved, batch 1 | batch 8 | weights | with weights, batch 1 | batch 8 |",
        "|" + "---|" * 7,
    ]
    for kind, name in NAMES.items():
        one = found[kind]
        moved = one["moved_b1"], one["moved_b8"], one["weights"]
        cells = (*moved, *(bytes_ + one["weights"] for bytes_ in moved[:2]))
        lines.append(f"| {name} | {one['kernels']} | {' | '.join(f'{cell:,}' for cell in cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
