"""Several processes that train one model: torchrun starts them, each takes its share of every batch.

Gradients are added up once per step, after all passes, in one message: with n + 1 passes per step that is one exchange
where DistributedDataParallel would have n + 1. BatchNorm normalises over the shares of all (`synced`), so that a step
is the step of one process with the whole batch, whatever the number of processes.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
from torch import distributed

from limpq_deploy.calibration.errors import SettingError

WAIT = timedelta(days=1)
"""For processes that wait while the first one searches, exports or measures. A process that dies ends all: torchrun."""


def follows() -> bool:
    """Whether torchrun started this process to help another, which writes all files and talks to the user."""
    return int(os.environ.get("RANK", "0")) > 0


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def leads() -> bool:
    """Whether this process writes files and decides."""
    return rank() == 0


def count() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Within it the processes that torchrun started work together; does nothing in a process of its own.

    After it no thread of the group is left: one that still frees a tensor while Python ends aborts the process.

    Raises SettingError for more processes than GPUs on a machine that has GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            raise SettingError(
                f"there are more processes than the {gpus} GPUs of this machine; start torchrun with "
                f"--nproc-per-node {gpus}, or hide the GPUs with CUDA_VISIBLE_DEVICES="
            )
        torch.cuda.set_device(local)
    importlib.import_module("torch.distributed.nn.functional")  # imported within, its defaults would keep the group
    store, number, size = next(distributed.rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # what died left its addresses in the same store
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=distributed.PrefixStore(f"limpq-{attempt}", store),
        rank=number,
        world_size=size,
        timeout=WAIT,
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def add_up(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor (all of one type) by its sum over the processes, in one message."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))


def share(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by the first process's."""
    if count() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor.detach(), 0)


def agree(decision: bool) -> bool:
    """The first process's decision, in all of them; they wait for it."""
    if count() == 1:
        return decision
    decided = torch.tensor([decision], dtype=torch.uint8, device=_exchange_device())
    distributed.broadcast(decided, 0)
    return bool(decided.item())


def _exchange_device() -> torch.device:
    return torch.device("cuda") if distributed.get_backend() == "nccl" else torch.device("cpu")
