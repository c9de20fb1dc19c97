"""What a pass over images costs by the size of its batches: CPU time and memory of the quantized network's forward.

Each size goes over the same images twice, with freed memory kept as in a build; the second time counts. Memory:
what the resident set grows by. One thread, random weights, 8 bits, target onnxruntime.

    python benchmarks/batches.py --json
    python benchmarks/batches.py --quick                 MobileNetV2 at 64 px
    python benchmarks/batches.py --smoke --json          ResNet-20: that it runs to its end
    python benchmarks/batches.py --network torchvision/resnet50:224:2,4,8,32
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from limpq_deploy.export.records.targets import ONNXRUNTIME
from limpq_deploy.model.layers import trace
from limpq_deploy.model.place import place
from limpq_deploy.model.zoo import create_model
from limpq_deploy.quant.quantized_model import joint_model
from limpq_deploy.train.kept_memory import freed_memory_kept

NETWORKS = (
    "resnet20:32:16,64,128,250",
    "torchvision/mobilenet_v2:64:8,32,128",
    "torchvision/mobilenet_v2:224:2,8,32",
    "torchvision/resnet50:64:8,32,128",
    "torchvision/resnet50:224:2,8,32",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), help="MODEL:PIXELS:IMAGES,IMAGES")
    parser.add_argument("--quick", action="store_true", help="MobileNetV2 at 64 px")
    parser.add_argument("--smoke", action="store_true", help="ResNet-20 and two sizes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.network = [NETWORKS[1]]
    if options.smoke:
        options.network = ["resnet20:32:4,8"]
    name, size, batches = options.network[0].split(":")
    if options.alone:
        print(json.dumps(measured(name, int(size), options.alone, max(map(int, batches.split(","))))))
        return
    found = {"networks": [_network(one) for one in options.network]}
    print(json.dumps(found) if options.json else page(found))


def _network(described: str) -> dict[str, Any]:
    """Each size of batch in a process of its own."""
    name, size, batches = described.split(":")
    rows = []
    for batch in batches.split(","):
        command = [sys.executable, __file__, "--network", described, "--alone", batch]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return {"model": name, "size": int(size), "batches": rows}


def measured(name: str, size: int, batch: int, images: int) -> dict[str, Any]:
    """Milliseconds of CPU time an image, MiB and page faults of passes over ``images`` in batches."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # several wait for each other in loops that count
    traced = trace(create_model(name, 10)[0].eval(), (3, size, size))
    placement = place(traced, ONNXRUNTIME, model=name)
    model = joint_model(traced, placement, (8,))
    images_NCHW = torch.randn(images, 3, size, size)
    model.initialise_scales(images_NCHW[:2])
    model.set_bits({layer.name: (8, 8) for layer in placement.searched})
    model.eval()
    with freed_memory_kept(), torch.no_grad():
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is what is resident now
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(2):
            begun, faults = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for some in images_NCHW.split(batch):
                model(some)
            seconds = time.process_time() - begun
        after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "images": batch,
        "cpu_ms": 1000 * seconds / images,
        "mib": (after.ru_maxrss - before.ru_maxrss) / 1024,
        "faults": after.ru_minflt - faults,
    }


def page(found: dict[str, Any]) -> str:
    """A table: a line for each size of batch."""
    lines = ["| network | px | images at once | CPU ms an image | MiB |", "|---|---|---|---|---|"]
    for network in found["networks"]:
        for row in network["batches"]:
            name = network["model"].rpartition("/")[2]
            cells = name, network["size"], row["images"], f"{row['cpu_ms']:.1f}", f"{row['mib']:.0f}"
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
