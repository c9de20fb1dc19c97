"""How long one image takes here, in float and quantized, forward and in training: measured in a few seconds."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from limpq_deploy.export.records.placement import Placement
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.model.results import tensors_of
from limpq_deploy.quant.quantized_model import joint_model
from limpq_deploy.train.device import on_device
from limpq_deploy.train.kept_memory import freed_memory_kept

SECONDS = 1.0
"""About as long is one thing tried, and with two images at least."""

MOST_IMAGES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSeconds:
    """Seconds of one image: forward of the float and of the quantized model, and forward and backward of each."""

    float_forward: float
    float_step: float
    quantized_forward: float
    quantized_step: float


def try_out(
    traced: TracedModel, placement: Placement, bits: tuple[int, ...], images_NCHW: torch.Tensor
) -> ImageSeconds:
    """Time a model on these images (2 at least) where training computes; ``traced`` stays as it was."""
    plain = copy.deepcopy(traced.graph_module)
    quantized = joint_model(traced, placement, bits)
    quantized.initialise_scales(images_NCHW[:8])
    quantized.set_bits({layer.name: (bits[-1], bits[-1]) for layer in placement.searched})
    with on_device(plain, quantized) as device, freed_memory_kept(), torch.random.fork_rng(devices=[]):
        images = images_NCHW.to(device)

        def forward(model: torch.nn.Module) -> Callable[[torch.Tensor], object]:
            def run(some: torch.Tensor) -> object:
                with torch.no_grad():
                    return model.eval()(some)

            return run

        def step(model: torch.nn.Module) -> Callable[[torch.Tensor], object]:
            def run(some: torch.Tensor) -> object:
                outputs = tensors_of(model.train()(some))
                torch.stack([output.float().square().mean() for output in outputs]).sum().backward()
                return outputs[0].detach().sum().item()  # a GPU is waited for

            return run

        return ImageSeconds(
            float_forward=_seconds(forward(plain), images),
            float_step=_seconds(step(plain), images),
            quantized_forward=_seconds(forward(quantized), images),
            quantized_step=_seconds(step(quantized), images),
        )


def _seconds(run: Callable[[torch.Tensor], object], images: torch.Tensor) -> float:
    """Of one image, from as many at once as `SECONDS` allow; the first call warms up."""
    run(images[:2])
    start = time.perf_counter()
    run(images[:2])
    few = time.perf_counter() - start
    count = max(2, min(len(images), int(2 * SECONDS / max(few, 1e-9))))
    run(images[:count])
    start = time.perf_counter()
    run(images[:count])
    return (time.perf_counter() - start) / count
