"""A model and a data set whose code prints wherever it can: on import, when made, in every call, in workers, at exit.

Copied beside the command that names it (`noisy:factory`, `noisy:data`).
"""

import atexit
import ctypes
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from limpq_deploy.calibration.datasets import DataSet, Preprocess, Split, open_dataset


def shout(where: str) -> None:
    """By every way that leads to standard output."""
    print("print", where)
    assert sys.__stdout__ is not None
    sys.__stdout__.write(f"__stdout__ {where}\n")
    os.write(1, f"os.write {where}\n".encode())
    ctypes.CDLL(None).printf(f"printf {where}\n".encode())


shout("import")
subprocess.run(["echo", "a process of its own"], check=True)
atexit.register(shout, "exit")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.pool, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shout("forward")
        x = torch.relu(self.second(torch.relu(self.first(x))))
        out: torch.Tensor = self.last(torch.flatten(self.pool(x), 1))
        return out


def factory() -> nn.Module:
    shout("factory")
    return Net()


def slow() -> None:
    shout("factory")
    print("waiting", file=sys.stderr, flush=True)
    time.sleep(60)


def ends() -> None:
    sys.exit(0)


def data(preprocess: Preprocess | None) -> DataSet:
    shout("data")
    digits = open_dataset("digits", preprocess)

    def split(name: str) -> Split:
        labels = digits.split(name).labels[:32]
        images = np.repeat(labels.astype(np.uint8) * 20, 256).reshape(-1, 16, 16)

        def read(index: int) -> Any:
            shout(f"image in process {os.getpid()}")
            return images[index]

        return Split(labels=labels, read=read, preprocess=digits.split(name).preprocess, cache_bytes=0)

    splits = {name: split(name) for name in ("train", "val", "test")}
    return DataSet(name="noisy", classes=digits.classes, splits=splits, fingerprint="1")
