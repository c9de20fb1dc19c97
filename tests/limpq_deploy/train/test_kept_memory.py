import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from contextlib import nullcontext
from limpq_deploy.train.kept_memory import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        several = [torch.ones(1 << 22) for _ in range(4)]
        del several
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

plain = faults()
with freed_memory_kept() as works:
    faults()
    kept, held = faults(), resident()
print(int(works), plain, kept, held - resident())
"""


def test_a_step_that_frees_its_memory_asks_the_system_for_none_in_the_next() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    works, plain, kept, given_back = map(int, done.stdout.split())
    if not works:
        pytest.skip("this C library is not glibc")
    assert kept < plain / 10
    # Four tensors of 16 MiB went back to the system.
    assert given_back > 60 * 2**20


EVALUATION = """
import resource, torch
from torch import nn
from limpq_deploy.calibration.datasets import open_dataset
from limpq_deploy.calibration.datasets.digits import PREPROCESS
from limpq_deploy.train.accuracy import evaluated, figure
from limpq_deploy.train.kept_memory import freed_memory_returned

wide = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
split = open_dataset("digits", PREPROCESS).split("train")

def pass_over():
    with torch.no_grad():
        for images, _ in evaluated(split):
            wide(torch.from_numpy(images))

def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with freed_memory_returned():
    figure(wide, split)
    print(faults(pass_over), faults(lambda: figure(wide, split)))
"""


def test_an_evaluation_keeps_the_memory_of_a_batch_for_the_next() -> None:
    done = subprocess.run([sys.executable, "-c", EVALUATION], capture_output=True, text=True, check=True)
    plain, kept = map(int, done.stdout.split())
    assert plain > 5_000
    assert kept < plain / 2  # of its 5 batches one


def test_memory_goes_back_at_the_end_of_the_outermost_block_alone() -> None:
    nested = PROGRAM.replace("    kept, held =", "    with freed_memory_kept():\n        pass\n    kept, held =")
    done = subprocess.run([sys.executable, "-c", nested], capture_output=True, text=True, check=True)
    works, plain, kept, _ = map(int, done.stdout.split())
    if not works:
        pytest.skip("this C library is not glibc")
    assert kept < plain / 10


LEFT = """
import resource, sys, torch
from limpq_deploy.train import kept_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

with getattr(kept_memory, sys.argv[1])():
    before = resident()
    several = [torch.ones(1 << 18) for _ in range(64)]
    alive = several[::8]
    del several
    print(int(kept_memory._glibc() is not None), resident() - before)
"""


@pytest.mark.parametrize(("within", "returned"), [("freed_memory_kept", False), ("freed_memory_returned", True)])
def test_blocks_between_others_go_back_to_the_system_where_that_is_asked_for(within: str, returned: bool) -> None:
    done = subprocess.run([sys.executable, "-c", LEFT, within], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    works, left = map(int, done.stdout.split())
    if not works:
        pytest.skip("this C library is not glibc")
    # Of 64 tensors of 1 MiB one in eight is alive.
    assert left < 20 * 2**20 if returned else left > 50 * 2**20


PASSES = """
import resource, torch
from limpq_deploy.train import kept_memory
from limpq_deploy.train.kept_memory import freed_memory_kept, freed_memory_returned

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

with freed_memory_returned():
    before = resident()
    with freed_memory_kept():
        several = [torch.ones(1 << 18) for _ in range(64)]
        del several
        kept = resident() - before
    print(int(kept_memory._glibc() is not None), kept, resident() - before)
"""


def test_passes_keep_memory_for_themselves_alone_in_a_stage_that_returns_it() -> None:
    done = subprocess.run([sys.executable, "-c", PASSES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    works, kept, after = map(int, done.stdout.split())
    if not works:
        pytest.skip("this C library is not glibc")
    assert kept > 60 * 2**20  # of 64 tensors of 1 MiB
    assert after < 4 * 2**20
