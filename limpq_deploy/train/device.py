"""Where and in which number format a training computes."""

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import nn

from limpq_deploy.calibration.errors import SettingError

SHORT_STEP_MACS = 1_000_000_000
"""Multiply-accumulates of a forward pass over a batch below which a second thread gains nothing."""

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def training_device() -> torch.device:
    """This process's GPU where there is one (CUDA_VISIBLE_DEVICES= hides it), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


CPU = torch.device("cpu")


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device


@contextlib.contextmanager
def on_device(*models: nn.Module | None) -> Iterator[torch.device]:
    """Within it these models are where training computes; afterwards they are back where they were."""
    device = training_device()
    present = [(model, device_of(model)) for model in models if model is not None]
    try:
        for model, _ in present:
            model.to(device)
        yield device
    finally:
        for model, before in present:
            model.to(before)


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Half precision widened to float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextlib.contextmanager
def channels_last(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Within it 4-dimensional weights lie in memory with channels last; afterwards all are as usual."""
    if wanted:
        _lay_out(model, torch.channels_last)
    try:
        yield
    finally:
        if wanted:
            _lay_out(model, torch.contiguous_format)


@contextlib.contextmanager
def usual_layout(model: nn.Module) -> Iterator[None]:
    """Within it weights lie in memory as they do when the model is used: sums then have the same last bits."""
    laid_out = [p for p in model.parameters() if p.dim() == 4 and not p.is_contiguous()]
    for parameter in laid_out:
        parameter.data = parameter.data.contiguous()
    try:
        yield
    finally:
        for parameter in laid_out:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def require_precision(precision: str) -> None:
    """Raise SettingError for a number format that is slow or unknown here.

    bf16 on a CPU without AVX512-BF16 is emulated: a step of ResNet-18 took 18 times as long.
    """
    if precision == "fp32" or torch.cuda.is_available():
        return
    if precision == "fp16":
        raise SettingError("precision fp16 needs a GPU, and there is none here; take fp32")
    if not torch.cpu._is_avx512_bf16_supported():
        raise SettingError(
            "precision bf16 needs a GPU or a CPU with AVX512-BF16; this one would emulate it, 18 times as slow as fp32"
        )


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Convolutions and matrix products in ``precision``; quantizers, sums of loss and optimizers stay in float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, TYPES[precision])


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def settle_threads(macs: int, batch_size: int = 64) -> None:
    """Compute on one thread where a step is too short to share; ``macs`` of one image. OMP_NUM_THREADS wins.

    Threads that wait for each other spin. For ResNet-8 on 16x16 digits (2 cores) a joint step took 0.20 to 0.25 s with
    one thread as with two, and beside one other busy process 0.27 s with one, 0.7 to 3 s with two.
    """
    if "OMP_NUM_THREADS" not in os.environ and macs * batch_size < SHORT_STEP_MACS:
        torch.set_num_threads(1)
