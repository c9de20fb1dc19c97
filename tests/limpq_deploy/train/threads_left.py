"""A process that torchrun starts: which threads of the group are left once the work is done."""

import importlib
import json
import sys
from pathlib import Path

import torch
from torch import distributed

from limpq_deploy.train.processes import joined, rank


def threads() -> list[str]:
    """The names of this process's threads that exchange tensors."""
    names = (path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
    return sorted(name for name in names if "gloo" in name)


def main(folder: Path) -> None:
    """Write what is seen within the group and after it to ``RANK.json``."""
    with joined():
        distributed.all_reduce(torch.ones(3))
        importlib.import_module("torch._dynamo")  # what tracing imports, here as late as a build does
        number, within = rank(), threads()
    (folder / f"{number}.json").write_text(json.dumps({"within": within, "after": threads()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
