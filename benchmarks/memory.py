"""Peak memory of a PTQ build beside that of the float model alone.

Each runs in a process of its own, behind a build of a tiny network that imports all there is to import. The float
model's: what the resident set grows by while it is made and run once on 64 images, a batch of the calibration. The
build's: what it grows by from before the model is made until ``build(model, data, ptq=True, engine=False)`` is done,
the caller's own model included. Weights are random.

    python benchmarks/memory.py --json
    python benchmarks/memory.py --quick                  ResNet-18
    python benchmarks/memory.py --smoke --json           ResNet-20 of small images: that it runs to its end
"""

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import limpq_deploy
from limpq_deploy.model.zoo import create_model

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision/resnet50")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--quick", action="store_true", help="ResNet-18")
    parser.add_argument("--smoke", action="store_true", help="a small network: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", choices=("float", "build"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.model = "torchvision/resnet18"
    if options.smoke:
        options.model, options.size = "resnet20", 32
    if options.alone:
        print(json.dumps(grown_mib(options.model, options.size, options.alone)))
        return
    found = {kind: _in_child(options.model, options.size, kind) for kind in ("float", "build")}
    shown = {"model": options.model, "size": options.size, "float_mib": found["float"], "build_mib": found["build"]}
    shown["ratio"] = found["build"] / found["float"]
    print(json.dumps(shown) if options.json else "\n".join(f"{name}: {value}" for name, value in shown.items()))


def _in_child(model: str, size: int, kind: str) -> float:
    command = [sys.executable, __file__, "--model", model, "--size", str(size), "--alone", kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def grown_mib(name: str, size: int, kind: str) -> float:
    """What the peak of the resident set exceeds its size before the model was made by."""
    with contextlib.redirect_stdout(io.StringIO()):
        middle = (nn.Conv2d(8, 8, 3), nn.ReLU())
        tiny = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
        )
        _build(tiny, data(16))
        given = data(size)
        before = _resident_mib()
        model = create_model(name, 10)[0].eval()
        if kind == "build":
            _build(model, given)
        else:
            with torch.no_grad():
                model(torch.from_numpy(given["train"][0][:BATCH]))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before


def data(size: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Noise of ten classes."""
    random = np.random.default_rng(0)
    counts = {"train": 2 * BATCH, "val": BATCH, "test": BATCH}
    return {
        split: (random.standard_normal((count, 3, size, size)).astype(np.float32), np.arange(count) % 10)
        for split, count in counts.items()
    }


def _build(model: nn.Module, given: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "build"
        limpq_deploy.build(model, given, ptq=True, like="w8a8", bits=[8], engine=False, out=out)


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
