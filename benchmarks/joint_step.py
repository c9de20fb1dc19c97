"""A joint training step (five bit-widths and a random one: six passes) beside an FP32 step of the same ResNet-18.

Batch 16 at 64 and 96 px, bits 2,3,4,5,6, steps of all kinds taken in turn within one process; a figure is the ratio of
medians. The FP32 step is plain torch (forward, cross entropy, backward, SGD with momentum); ours is the product's own
loop, with clipping, both optimizers and all checks; the authors' way is their quantizer written from its description
(floats that stand for boolean masks, per-tensor scales, elements counted over the batch) with nothing shared between
passes.

`ratio_to_fp32`: joint step / FP32 step, both channels last as the product trains, 64 px, quantizers placed as in the
paper (`ours_channels_last`; `ours` is the same in torch's other memory format).
`ratio_to_floor`: that over six, the passes. `authors_ratio_to_fp32`: the same for the authors' way. `sizes`: per size
and variant the same figures and the raw samples in ms; `onnxruntime` is our step with the quantizers of that target,
`eager` ours without the compiled kernel. `cpu_ratio`: of processor time, which other programs on the machine disturb
less. `peak_memory_ratio`: highest resident memory of a step above that of the process before it made a model, joint
over FP32, each in a process of its own (64 px). `load`: of the machine before and after.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from limpq_deploy.calibration.datasets import Split
from limpq_deploy.calibration.datasets.preprocess import Preprocess
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.export.records.targets import ONNXRUNTIME, REFERENCE, TargetSpec
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place
from limpq_deploy.model.zoo import create_model
from limpq_deploy.quant import fake_quant
from limpq_deploy.quant import modules as quant_modules
from limpq_deploy.quant.lsq_kernel import kernel
from limpq_deploy.quant.quantized_model import QuantizedModel, joint_model
from limpq_deploy.train.joint import joint_passes
from limpq_deploy.train.kept_memory import freed_memory_kept
from limpq_deploy.train.loop import _Training  # a step by itself: `train` takes them all
from limpq_deploy.train.settings import JointSettings

BITS = (2, 3, 4, 5, 6)
HEADLINE = ("ours_channels_last", "authors")
BATCH = 16
SETTINGS = JointSettings(
    steps=1000,
    batch_size=BATCH,
    learning_rate=0.01,
    scale_learning_rate=0.02,
    warmup_steps=10,
    weight_decay=2.5e-5,
    label_smoothing=0.1,
)


Variant = Callable[[int], Callable[[], None]]
"""Size in pixels -> a step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 px, without the side variants, fewer steps")
    parser.add_argument("--smoke", action="store_true", help="32 px, one round: that it runs to its end")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--peak", choices=["fp32", "joint", "authors"], help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=64, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak is not None:
        print(json.dumps({"bytes": peak_bytes(options.peak, options.size)}))
        return
    if options.smoke:
        result = measure(sizes=[32], rounds=1, names=("fp32", "fp32_channels_last", *HEADLINE))
    elif options.quick:
        result = measure(sizes=[64], rounds=5, names=("fp32", "fp32_channels_last", *HEADLINE))
    else:
        result = measure(sizes=[64, 96], rounds=11, names=tuple(VARIANTS))
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


def measure(*, sizes: list[int], rounds: int, names: Sequence[str]) -> dict[str, Any]:
    load = [os.getloadavg()[0]]
    with freed_memory_kept():  # as in a training; for all variants
        measured = {str(size): ratios(race(size, rounds, names)) for size in sizes}
    memory = {kind: in_own_process(kind, sizes[0]) for kind in ("fp32", "joint", "authors")}
    first, (ours, authors) = measured[str(sizes[0])], HEADLINE
    return {
        "ratio_to_fp32": first[ours]["ratio"],
        "ratio_to_floor": first[ours]["ratio"] / (len(BITS) + 1),
        "authors_ratio_to_fp32": first[authors]["ratio"],
        "peak_memory_ratio": memory["joint"] / memory["fp32"],
        "authors_peak_memory_ratio": memory["authors"] / memory["fp32"],
        "peak_memory_mib": {kind: round(found / 2**20, 1) for kind, found in memory.items()},
        "sizes": measured,
        "batch": BATCH,
        "passes": len(BITS) + 1,
        "rounds": rounds,
        "kernel": kernel() is not None,
        "machine": {
            "processor": processor(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "load": [*load, os.getloadavg()[0]],
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def race(size: int, rounds: int, names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """(wall ms, processor ms) of every step of these variants, taken in turn."""
    steps = {name: VARIANTS[name](size) for name in names}
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            # An FP32 step is short: as many of them as a joint step has passes.
            for _ in range(len(BITS) + 1 if name.startswith("fp32") else 1):
                wall, processor_time = time.perf_counter(), time.process_time()
                step()
                taken = (time.perf_counter() - wall) * 1e3, (time.process_time() - processor_time) * 1e3
                if number:  # the first round warms up
                    samples[name].append(taken)
    return samples


def variant(make: Callable[..., Callable[[], None]], *arguments: Any, channels_last: bool = False) -> Variant:
    def made(size: int) -> Callable[[], None]:
        images, labels = batch(size)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return make(size, images.contiguous(memory_format=layout), labels, *arguments)

    return made


def ratios(samples: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    medians = {
        name: [statistics.median(column) for column in zip(*taken, strict=True)] for name, taken in samples.items()
    }
    found: dict[str, Any] = {}
    for name, taken in samples.items():
        wall, cpu = medians["fp32_channels_last" if name.endswith("channels_last") else "fp32"]
        found[name] = {
            "median_ms": round(medians[name][0], 2),
            "ratio": medians[name][0] / wall,
            "cpu_ratio": medians[name][1] / cpu,
            "samples_ms": [round(one, 2) for one, _ in taken],
        }
    return found


def network(size: int) -> nn.Module:
    torch.manual_seed(0)
    return create_model("torchvision/resnet18")[0]


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, 3, size, size, generator=generator), torch.randint(1000, (BATCH,), generator=generator)


def lay_out_channels_last(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def fp32_step(size: int, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    model = network(size).train()
    if images.is_contiguous(memory_format=torch.channels_last):
        lay_out_channels_last(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=2.5e-5)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
        optimizer.step()

    return step


def quantized_network(size: int, images: torch.Tensor, target: TargetSpec) -> QuantizedModel:
    traced = trace(network(size), (3, size, size))
    model = joint_model(traced, place(traced, target, model="resnet18"), BITS)
    model.initialise_scales(images)
    if images.is_contiguous(memory_format=torch.channels_last):
        lay_out_channels_last(model)
    return model.train()


def joint_step(size: int, images: torch.Tensor, labels: torch.Tensor, target: TargetSpec) -> Callable[[], None]:
    """A step of the product's own loop."""
    model = quantized_network(size, images, target)
    training = _Training(
        model,
        labels_only(size, labels),
        SETTINGS,
        seed=0,
        augment=None,
        passes=joint_passes(model, BITS, np.random.default_rng(0), SETTINGS),
        device=torch.device("cpu"),
    )

    def step() -> None:
        training.optimizers.begin(SETTINGS.warmup_steps)
        training._gradients(images, labels)
        training.optimizers.step(training.scaler)

    return step


def without_kernel(step: Callable[[], None]) -> Callable[[], None]:
    def eager() -> None:
        with mock.patch.object(fake_quant, "kernel", return_value=None):
            step()

    return eager


def authors_step(size: int, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """Six whole passes with the authors' quantizer, then clipping and SGD for all parameters."""
    model = quantized_network(size, images, REFERENCE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=2.5e-5)
    passes = joint_passes(model, BITS, np.random.default_rng(0), SETTINGS)

    def step() -> None:
        optimizer.zero_grad()
        with mock.patch.object(quant_modules, "fake_quantize", authors_fake_quantize):
            for one in passes:
                one.choose()
                F.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
        parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
        nn.utils.clip_grad_value_(parameters, 1.0)
        for parameter in parameters:
            if parameter.grad is not None and not parameter.grad.count_nonzero():
                parameter.grad = None
        optimizer.step()

    return step


def authors_fake_quantize(
    x: torch.Tensor, scale: torch.Tensor, grid: QuantGrid, *, elements: int, **_: Any
) -> torch.Tensor:
    """LSQ as `limpq.md` describes the authors' quantizer; elements are counted over the batch, ``elements`` unused."""
    result: torch.Tensor = _AuthorsLsq.apply(x, scale, grid.qmin, grid.qmax, 1 / (x.numel() * grid.qmax) ** 0.5)
    return result


class _AuthorsLsq(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int, damping: float) -> torch.Tensor:
        ctx.save_for_backward(x, scale)
        ctx.settings = qmin, qmax, damping
        return (x / scale).clamp(qmin, qmax).round() * scale

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        (upstream,) = grad_outputs
        x, scale = ctx.saved_tensors
        qmin, qmax, damping = ctx.settings
        steps = x / scale
        below, above = (steps < qmin).float(), (steps > qmax).float()
        inside = 1.0 - below - above
        slope = below * qmin + above * qmax + inside * (steps.round() - steps)
        return inside * upstream, (slope * upstream * damping).sum().reshape(scale.shape), None, None, None


def labels_only(size: int, labels: torch.Tensor) -> Split:
    """A split of a batch's length; the benchmark hands its images to the loop itself."""
    preprocess = Preprocess(height=size, width=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Split(labels=labels.numpy(), read=lambda index: np.zeros((size, size, 3), np.uint8), preprocess=preprocess)


def in_own_process(kind: str, size: int) -> int:
    command = [sys.executable, __file__, "--peak", kind, "--size", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["bytes"])


def peak_bytes(kind: str, size: int) -> int:
    """Highest resident memory during three steps, above what the process held before it made a model."""
    images, labels = batch(size)
    if kind != "authors":
        images = images.contiguous(memory_format=torch.channels_last)
    kernel()
    before = resident("VmRSS")
    if kind == "fp32":
        step = fp32_step(size, images, labels)
    elif kind == "joint":
        step = joint_step(size, images, labels, REFERENCE)
    else:
        step = authors_step(size, images, labels)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    with freed_memory_kept():
        for _ in range(3):
            step()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


VARIANTS: dict[str, Variant] = {
    "fp32": variant(fp32_step),
    "fp32_channels_last": variant(fp32_step, channels_last=True),
    "ours": variant(joint_step, REFERENCE),
    "ours_channels_last": variant(joint_step, REFERENCE, channels_last=True),
    "onnxruntime": variant(joint_step, ONNXRUNTIME),
    "eager": variant(lambda *arguments: without_kernel(joint_step(*arguments)), REFERENCE),
    "authors": variant(authors_step),
}
"""FP32 first: what comes after it in one memory format is compared with it."""


if __name__ == "__main__":
    main()
