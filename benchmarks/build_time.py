"""How long the default build takes, stage by stage, beside another checkout's; and what freed memory costs.

Builds of this tree and of ``--against`` take turns, each in a process of its own, so that both meet the same machine;
figures are medians, and CPU seconds count what other processes do not disturb. Then MobileNetV2's float forward pass at
224 px, with memory handed back to the system after each batch and with it kept (`train.kept_memory`).

    git worktree add /tmp/before COMMIT
    python benchmarks/build_time.py --against /tmp/before --json
    python benchmarks/build_time.py --quick --json      one build of each
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.records import to_dict
from limpq_deploy.export.records.environment import read_environment

HERE = Path(__file__).resolve().parents[1]
MODEL = "model.qdq.onnx"

SMOKE = """
latency_seconds = 0.05
max_accuracy_drop = 100.0
[training]
float_steps = 20
joint_steps = 3
finetune_steps = 10
"""

FORWARD = """
import contextlib, resource, sys, time, torch
from limpq_deploy.model.zoo import create_model
from limpq_deploy.train.kept_memory import freed_memory_kept
kept, images, size, batch = sys.argv[1] == "kept", *map(int, sys.argv[2:])
model = create_model("torchvision/mobilenet_v2")[0].eval()
some = torch.zeros(batch, 3, size, size)
with freed_memory_kept() if kept else contextlib.nullcontext(), torch.no_grad():
    model(some)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for _ in range(max(1, images // batch)):
        model(some)
    after, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - start
print(wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, after.ru_minflt - before.ru_minflt)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one build of each tree")
    parser.add_argument("--smoke", action="store_true", help="a few steps of training: that it runs to its end")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--against", type=Path, metavar="TREE", help="another checkout, built in turns with this one")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="builds of each tree (default 3)")
    options = parser.parse_args()
    trees = {"now": HERE} | ({"before": options.against.resolve()} if options.against is not None else {})
    runs = 1 if options.quick or options.smoke else options.runs
    found: dict[str, Any] = {"environment": to_dict(read_environment()), **builds(trees, runs, smoke=options.smoke)}
    found["mobilenet_v2_forward"] = forward(images=8, size=96) if options.smoke else forward(images=256, size=224)
    if options.json:
        print(json.dumps(found))
        return
    for name in trees:
        one = found[name]
        print(f"{name}: {one['seconds']:.1f} s, CPU {one['cpu_seconds']:.1f} s; {one['stages']}")
    if "ratio" in found:
        print(f"{found['ratio']:.2f} of the time, {found['cpu_ratio']:.2f} of the CPU time")
    print(found["mobilenet_v2_forward"])


def builds(trees: dict[str, Path], runs: int, *, smoke: bool) -> dict[str, Any]:
    """Medians by tree, and their ratios where there are two."""
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    models: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "smoke.toml").write_text(SMOKE)
        for run in range(runs):
            for name, tree in trees.items():
                out = Path(work) / f"{name}{run}"
                words = ["--config", str(Path(work) / "smoke.toml")] if smoke else []
                seen[name].append(build(tree, out, words))
                models[name] = (out / MODEL).read_bytes()
    found: dict[str, Any] = {name: medians(some) for name, some in seen.items()}
    if len(trees) == 2:
        pairs = list(zip(seen["now"], seen["before"], strict=True))
        found["ratio"] = statistics.median(now["seconds"] / before["seconds"] for now, before in pairs)
        found["cpu_ratio"] = statistics.median(now["cpu_seconds"] / before["cpu_seconds"] for now, before in pairs)
        found["same_model"] = models["now"] == models["before"]
    return found


def build(tree: Path, out: Path, words: list[str]) -> dict[str, Any]:
    """One default build by the code of a tree: wall and CPU seconds, and seconds of every stage."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "limpq_deploy", "build", "--out", str(out), *words]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out.parent, env=environment)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 3):
        raise SystemExit(f"the build of {tree} failed: {done.stderr[-2000:]}")
    stages = json.loads((out / "stages.json").read_text())["stages"]
    return {
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "stages": {name: one["seconds"] for name, one in stages.items()},
    }


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    names = runs[0]["stages"]
    return {
        "seconds": round(statistics.median(run["seconds"] for run in runs), 1),
        "cpu_seconds": round(statistics.median(run["cpu_seconds"] for run in runs), 1),
        "stages": {name: round(statistics.median(run["stages"].get(name, 0.0) for run in runs), 1) for name in names},
        "runs": len(runs),
    }


def forward(*, images: int, size: int) -> dict[str, dict[str, float]]:
    """MobileNetV2 on so many images of ``size`` px: seconds, those in the kernel, and page faults."""
    found = {}
    for name, batch in (("plain", 250), ("kept", 32)):
        command = [sys.executable, "-c", FORWARD, name, str(images), str(size), str(min(batch, images))]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(HERE)}
        )
        wall, user, kernel, faults = map(float, done.stdout.split())
        found[name] = {
            "seconds": round(wall, 2),
            "user": round(user, 2),
            "kernel": round(kernel, 2),
            "faults": int(faults),
        }
    return found


if __name__ == "__main__":
    main()
