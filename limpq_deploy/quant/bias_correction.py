"""What quantization does to the mean of a layer's outputs, taken back where nothing is trained."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from limpq_deploy.export.records.placement import BitPair, LayerPlacement
from limpq_deploy.quant.quantized_model import QuantizedModel


def correct_biases(
    model: QuantizedModel, policy: dict[str, BitPair], batches: Iterable[torch.Tensor]
) -> tuple[str, ...]:
    """Shift biases, in place, so that the mean output of every layer is that of the float model.

    d[c] = E[z_float[c]] - E[z_quantized[c]];   bias[c] += d[c],   or beta[c] += gamma[c] / sqrt(var[c] + eps) * d[c]

    over images and positions of a layer's output z (Nagel et al., Data-Free Quantization Through Weight Equalization
    and Bias Correction, ICCV 2019, the form that uses data). A layer is corrected with what comes before it already
    corrected, in one pass over each batch; the shifts of the batches are averaged, where the paper goes over all data
    once for each layer. ``policy``: the bits in use afterwards. The model's scales are set and it is in evaluation
    mode. Returns the layers that have neither bias nor BatchNorm and stay as they are.
    """
    placed = {layer.name: layer for layer in model.placement.layers}
    shifts = {name: torch.zeros(0) for name in placed}
    images = 0

    for images_NCHW in batches:
        means: dict[str, torch.Tensor] = {}

        def keep(name: str, output: torch.Tensor, means: dict[str, torch.Tensor] = means) -> None:
            means[name] = channel_means(placed[name], output)

        model.set_float()
        _watch(model, images_NCHW, keep)
        weight, images = len(images_NCHW) / (images + len(images_NCHW)), images + len(images_NCHW)

        def shift(
            name: str,
            output: torch.Tensor,
            means: dict[str, torch.Tensor] = means,
            weight: float = weight,
        ) -> torch.Tensor | None:
            if _has_nowhere(model, placed[name]):
                return None
            found = means[name] - channel_means(placed[name], output)
            before = shifts[name]
            shifts[name] = found if not before.numel() else before + weight * (found - before)
            return output + (found.view(-1, 1, 1) if placed[name].kind == "conv" else found)

        model.set_bits(policy)
        _watch(model, images_NCHW, shift)
    with torch.no_grad():
        for name, layer in placed.items():
            if shifts[name].numel():
                _fold(model, layer, shifts[name])
    return tuple(name for name, layer in placed.items() if _has_nowhere(model, layer))


def channel_means(layer: LayerPlacement, output: torch.Tensor) -> torch.Tensor:
    """Mean over everything but output channels: of NCHW, or of [..., C] for a linear layer."""
    return output.mean((0, 2, 3)) if layer.kind == "conv" else output.reshape(-1, output.shape[-1]).mean(0)


def _fold(model: QuantizedModel, layer: LayerPlacement, shift: torch.Tensor) -> None:
    bias = model.quant_layer(layer.name).bias
    if bias is not None:
        bias += shift
        return
    assert layer.batchnorm is not None
    norm = model.batchnorm(layer.batchnorm)
    assert norm.active is not None
    row = norm.bits.index(norm.active)
    norm.bias[row] += norm.weight[row] / (norm.running_var[row] + norm.eps).sqrt() * shift


def _has_nowhere(model: QuantizedModel, layer: LayerPlacement) -> bool:
    return layer.batchnorm is None and model.quant_layer(layer.name).bias is None


def _watch(model: QuantizedModel, images_NCHW: torch.Tensor, look: Callable[[str, torch.Tensor], Any]) -> None:
    """One forward pass; what ``look`` returns for a layer's output goes on instead of it, None leaves it."""

    def hook(name: str) -> Callable[[Any, Any, torch.Tensor], torch.Tensor | None]:
        def after(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor | None:
            changed: torch.Tensor | None = look(name, output)
            return changed

        return after

    handles = [
        model.quant_layer(layer.name).register_forward_hook(hook(layer.name)) for layer in model.placement.layers
    ]
    try:
        with torch.no_grad():
            model(images_NCHW)
    finally:
        for handle in handles:
            handle.remove()
