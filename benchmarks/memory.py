"""Peak memory of a PTQ build beside that of the float model alone.

Each runs in a process of its own, behind a build of a tiny network that imports all there is to import. The float
model's: what the resident set grows by while it is made and run once on 64 images, a batch of the calibration. The
build's: what it grows by from before the model is made until ``build(model, data, ptq=True, engine=False)`` is done,
the caller's own model included. Weights are random. ``--stages``: the peak of each stage as well, the kernel's
high-water mark being set back behind each.

    python benchmarks/memory.py --json
    python benchmarks/memory.py --quick                  ResNet-18
    python benchmarks/memory.py --smoke --json           ResNet-20 of small images: that it runs to its end
    python benchmarks/memory.py --model torchvision/resnet50 torchvision/resnet18 --runs 5 --stages --json
"""

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import limpq_deploy
from limpq_deploy.callbacks import Callback
from limpq_deploy.model.zoo import create_model

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["torchvision/resnet50"])
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--runs", type=int, default=1, help="builds of each network")
    parser.add_argument("--stages", action="store_true", help="the peak of each stage of a build")
    parser.add_argument("--quick", action="store_true", help="ResNet-18")
    parser.add_argument("--smoke", action="store_true", help="a small network: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", choices=("float", "build"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.model = ["torchvision/resnet18"]
    if options.smoke:
        options.model, options.size = ["resnet20"], 32
    if options.alone:
        print(json.dumps(grown_mib(options.model[0], options.size, options.alone, options.stages)))
        return
    networks = [_measured(name, options) for name in options.model]
    shown = {**{name: value for name, value in networks[0].items() if name != "builds"}, "networks": networks}
    print(json.dumps(shown) if options.json else page(shown))


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Of one network: the float model, every build, and the largest of these."""
    alone = _in_child(name, options, "float")["mib"]
    builds = [_in_child(name, options, "build") for _ in range(options.runs)]
    most = max(build["mib"] for build in builds)
    return {
        "model": name,
        "size": options.size,
        "float_mib": alone,
        "build_mib": most,
        "ratio": most / alone,
        "builds": builds,
    }


def _in_child(name: str, options: argparse.Namespace, kind: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--model", name, "--size", str(options.size), "--alone", kind]
    command += ["--stages"] if options.stages and kind == "build" else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Stages(Callback):
    """What the resident set grew by at most, in MiB above ``before``: in all, and with ``each`` in every stage."""

    def __init__(self, before: float, each: bool) -> None:
        self._before, self._each = before, each
        self.most = 0.0
        self.peaks: dict[str, float] = {}

    def on_stage(self, stage: Any) -> None:
        self.look()
        if self._each:
            self.peaks[stage.title] = _peak_mib() - self._before
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is what is resident now

    def look(self) -> None:
        self.most = max(self.most, _peak_mib() - self._before)


def grown_mib(name: str, size: int, kind: str, each: bool) -> dict[str, Any]:
    """What the peak of the resident set exceeds its size before the model was made by."""
    with contextlib.redirect_stdout(io.StringIO()):
        middle = (nn.Conv2d(8, 8, 3), nn.ReLU())
        tiny = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
        )
        _build(tiny, data(16))
        given = data(size)
        stages = Stages(_resident_mib(), each)
        begun = time.perf_counter()
        model = create_model(name, 10)[0].eval()
        if kind == "build":
            _build(model, given, stages)
        else:
            with torch.no_grad():
                model(torch.from_numpy(given["train"][0][:BATCH]))
        stages.look()
    found: dict[str, Any] = {"mib": stages.most, "seconds": time.perf_counter() - begun}
    return found | ({"stages": stages.peaks} if each else {})


def data(size: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Noise of ten classes."""
    random = np.random.default_rng(0)
    counts = {"train": 2 * BATCH, "val": BATCH, "test": BATCH}
    return {
        split: (random.standard_normal((count, 3, size, size)).astype(np.float32), np.arange(count) % 10)
        for split, count in counts.items()
    }


def _build(model: nn.Module, given: dict[str, tuple[np.ndarray, np.ndarray]], stages: Stages | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "build"
        limpq_deploy.build(model, given, ptq=True, like="w8a8", bits=[8], engine=False, out=out, progress=stages)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def page(found: dict[str, Any]) -> str:
    """A table: every build of every network, the float model's memory, and of each stage where they were looked at."""
    rows = [(network, build) for network in found["networks"] for build in network["builds"]]
    titles = list(dict.fromkeys(title for _, build in rows for title in build.get("stages", {})))
    lines = [
        f"| MiB | px | float model | build | of the float model | {' | '.join(titles)} |",
        "|---" * (5 + len(titles)) + "|",
    ]
    for network, build in rows:
        alone, stages = network["float_mib"], build.get("stages", {})
        each = " | ".join(f"{stages[title]:.0f}" for title in titles)
        name = network["model"].rpartition("/")[2]
        lines.append(
            f"| {name} | {network['size']} | {alone:.0f} | {build['mib']:.0f} | {build['mib'] / alone:.2f} | {each} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
