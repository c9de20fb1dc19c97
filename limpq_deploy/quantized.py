"""The quantized torch model: layers, activation quantizers and switchable BatchNorm, for one or several bit-widths."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn
from torch.nn import functional as F

from limpq_deploy.calibration.grid import QuantGrid
from limpq_deploy.calibration.observe import observe_inputs
from limpq_deploy.calibration.ranges import least_squares, lsq_mean_abs, three_sigma
from limpq_deploy.common_part import CommonOnce, CommonPart, common_part
from limpq_deploy.export.placement import ActQuantizer, BitPair, LayerPlacement, Placement
from limpq_deploy.fake_quant import LearnedScales, fake_quantize, quantize
from limpq_deploy.layers import TracedModel
from limpq_deploy.placement import QUANTIZERS, with_quantizers


class ActFakeQuant(nn.Module):
    """An activation quantizer. ``bits``: its candidate widths, ascending; ``active``: the one in use, None for float.

    A re-quantizer at its parent's width or above passes its input through (see `Placement.act_grids`).
    """

    def __init__(self, placed: ActQuantizer, bits: tuple[int, ...], grids: tuple[QuantGrid, ...]) -> None:
        super().__init__()
        self.placed = placed
        self.bits = bits
        self.scales = LearnedScales(grids)
        self.active: int | None = None
        self.identity_from: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.active is None or (self.identity_from is not None and self.active >= self.identity_from):
            return x
        index = self.bits.index(self.active)
        return fake_quantize(x, self.scales.scale(index), self.scales.grids[index], elements=x[0].numel())

    def active_scale(self) -> float:
        """Scale at the active width."""
        assert self.active is not None
        return self.scales.scale(self.bits.index(self.active)).item()


class QuantLayer(nn.Module):
    """A convolution or linear layer with a quantized weight; ``weight`` and ``bias`` keep their names."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, bits: tuple[int, ...], grids: tuple[QuantGrid, ...]) -> None:
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias
        self.bits = bits
        self.scales = LearnedScales(grids)
        self.active: int | None = None
        self.gathers_gradients = False
        self.apply_weight = _application(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.active is None:
            return self.apply_weight(x, self.weight, self.bias)
        index = self.bits.index(self.active)
        grid = self.scales.grids[index]
        scale, elements = self.scales.scale(index), self.weight.numel()
        weight = fake_quantize(
            self.weight, scale, grid, elements=elements, overwrite=True, gather=self.gathers_gradients
        )
        return self.apply_weight(x, weight, self.bias)

    def active_scale(self) -> float:
        """Weight scale at the active width."""
        assert self.active is not None
        return self.scales.scale(self.bits.index(self.active)).item()

    def codes(self) -> torch.Tensor:
        """Integer weight codes (as floats) at the active width, by the arithmetic of the forward pass."""
        assert self.active is not None
        index = self.bits.index(self.active)
        return quantize(self.weight.detach(), self.scales.scale(index).detach(), self.scales.grids[index])


class SwitchableBatchNorm(nn.Module):
    """One BatchNorm for each weight bit-width of its layer (Yu et al., Slimmable Networks, ICLR 2019): all [n, C]."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, norm: nn.BatchNorm2d, bits: tuple[int, ...]) -> None:
        super().__init__()
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        count = len(bits)
        self.bits = bits
        self.eps = norm.eps
        self.momentum: float = 0.1 if norm.momentum is None else norm.momentum
        self.weight = nn.Parameter(norm.weight.detach().repeat(count, 1))
        self.bias = nn.Parameter(norm.bias.detach().repeat(count, 1))
        self.register_buffer("running_mean", mean.repeat(count, 1))
        self.register_buffer("running_var", var.repeat(count, 1))
        self.active: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        index = len(self.bits) - 1 if self.active is None else self.bits.index(self.active)
        return F.batch_norm(
            x,
            self.running_mean[index],
            self.running_var[index],
            self.weight[index],
            self.bias[index],
            self.training,
            self.momentum,
            self.eps,
        )


class QuantizedModel(nn.Module):
    """A traced model with the quantizers of a placement.

    ``candidates`` gives each searched layer its (weight bits, activation bits) to learn: several for joint training,
    one each for fine-tuning. Pinned layers and carriers have their fixed width. `set_bits` chooses.
    """

    def __init__(
        self,
        traced: TracedModel,
        placement: Placement,
        candidates: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
    ) -> None:
        super().__init__()
        self.placement = placement
        spec = placement.spec

        def make(quantizer: ActQuantizer) -> ActFakeQuant:
            bits = (quantizer.bits,) if quantizer.bits is not None else candidates[quantizer.layers[0]][1]
            grids = (spec.act_grid(b, signed=quantizer.signed, offset=quantizer.offset) for b in bits)
            return ActFakeQuant(quantizer, bits, tuple(grids))

        self.graph = with_quantizers(traced, placement, make)
        for layer in placement.layers:
            self._replace_layer(layer, candidates)
        self._common: CommonPart | None = None
        self._once: CommonOnce | None = None
        self.set_float()

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return self.graph(images_NCHW) if self._once is None else self._once(images_NCHW)

    @contextlib.contextmanager
    def passes_over_one_batch(self) -> Iterator[None]:
        """Within it every forward pass is over one batch (the same tensor), and what no bit-width changes is computed
        once for all of them (see `common_part`); gradients are complete when it ends. Those of weights may be added up
        unseen by autograd, in one pass over memory less."""
        if self._common is None:
            self._common = common_part(self.graph, _switches)
        layers = [self.quant_layer(layer.name) for layer in self.placement.layers]
        self._once = None if self._common is None else self._common.once()
        try:
            for layer in layers:
                layer.gathers_gradients = True
            yield
            if self._once is not None:
                self._once.backward()
        finally:
            self._once = None
            for layer in layers:
                layer.gathers_gradients = False

    def quant_layer(self, name: str) -> QuantLayer:
        module = self.graph.get_submodule(name)
        assert isinstance(module, QuantLayer)
        return module

    def batchnorm(self, name: str) -> SwitchableBatchNorm:
        module = self.graph.get_submodule(name)
        assert isinstance(module, SwitchableBatchNorm)
        return module

    def act_quantizer(self, name: str) -> ActFakeQuant:
        module = self.graph.get_submodule(f"{QUANTIZERS}.{name}")
        assert isinstance(module, ActFakeQuant)
        return module

    def set_bits(self, policy: Mapping[str, BitPair]) -> None:
        """Use these (weight, activation) bits in the searched layers; a BatchNorm follows its layer's weight bits."""
        for layer in self.placement.layers:
            bits = layer.pinned_bits or policy[layer.name][0]
            self.quant_layer(layer.name).active = bits
            if layer.batchnorm is not None:
                self.batchnorm(layer.batchnorm).active = bits
        for quantizer in self.placement.quantizers:
            chosen = quantizer.bits if quantizer.bits is not None else policy[quantizer.layers[0]][1]
            self.act_quantizer(quantizer.name).active = chosen

    def set_float(self) -> None:
        """Switch all quantizers off."""
        for module in self.modules():
            if isinstance(module, ActFakeQuant | QuantLayer | SwitchableBatchNorm):
                module.active = None

    def initialise_scales(self, images_NCHW: torch.Tensor) -> None:
        """First scales from the float model on one batch: the paper's for searched tensors, least squares where the
        width is fixed (the paper's formula wastes most codes of an 8-bit grid)."""
        self.set_float()
        quantizers = {q.name: self.act_quantizer(q.name) for q in self.placement.quantizers}

        def look(name: str, values: torch.Tensor) -> None:
            module = quantizers[name]
            first = least_squares if module.placed.bits is not None or len(module.bits) == 1 else lsq_mean_abs
            bound = module.placed.bound
            scales = [first(values, grid) for grid in module.scales.grids]
            if bound is not None:  # codes beyond what a ReLU6 lets through would never be used
                scales = [min(s, bound / grid.qmax) for s, grid in zip(scales, module.scales.grids, strict=True)]
            module.scales.initialise(scales)

        was_training = self.training
        self.eval()
        observe_inputs(self, quantizers, images_NCHW, look)
        self.train(was_training)
        for layer in self.placement.layers:
            module = self.quant_layer(layer.name)
            first = least_squares if len(module.bits) == 1 else three_sigma
            module.scales.initialise([first(module.weight.detach(), grid) for grid in module.scales.grids])

    def _replace_layer(
        self, layer: LayerPlacement, candidates: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> None:
        spec = self.placement.spec
        bits = (layer.pinned_bits,) if layer.pinned_bits is not None else candidates[layer.name][0]
        original = self.graph.get_submodule(layer.name)
        assert isinstance(original, nn.Conv2d | nn.Linear)
        self.graph.set_submodule(layer.name, QuantLayer(original, bits, tuple(spec.weight_grid(b) for b in bits)))
        if layer.batchnorm is not None:
            norm = self.graph.get_submodule(layer.batchnorm)
            assert isinstance(norm, nn.BatchNorm2d)
            self.graph.set_submodule(layer.batchnorm, SwitchableBatchNorm(norm, bits))


def _switches(module: nn.Module) -> bool:
    """Whether a module computes something else at another bit-width."""
    return isinstance(module, ActFakeQuant | QuantLayer | SwitchableBatchNorm) and len(module.bits) > 1


def joint_model(traced: TracedModel, placement: Placement, bits: tuple[int, ...]) -> QuantizedModel:
    """Every searched layer with every bit-width of the list."""
    model = QuantizedModel(traced, placement, {layer.name: (bits, bits) for layer in placement.searched})
    for quantizer in placement.quantizers:
        parent = placement.quantizer(quantizer.parent) if quantizer.parent else None
        if parent is not None:
            model.act_quantizer(quantizer.name).identity_from = parent.bits
    return model


def model_of_policy(traced: TracedModel, placement: Placement, policy: Mapping[str, BitPair]) -> QuantizedModel:
    """Every searched layer at its bits of the policy, switched on; scales are not yet set."""
    grids = placement.act_grids(policy)
    model = QuantizedModel(
        traced,
        placement,
        {layer.name: ((policy[layer.name][0],), (policy[layer.name][1],)) for layer in placement.searched},
    )
    for quantizer in placement.quantizers:
        if quantizer.name not in grids:
            model.act_quantizer(quantizer.name).identity_from = 0
    model.set_bits(policy)
    return model


def inherit(model: QuantizedModel, joint: QuantizedModel) -> None:
    """Take weights, the chosen bit-widths' scales and BatchNorms from a jointly trained model.

    A BatchNorm comes from its layer's weight bits; with other activation bits its statistics must be re-estimated.
    """
    with torch.no_grad():
        for layer in model.placement.layers:
            mine, theirs = model.quant_layer(layer.name), joint.quant_layer(layer.name)
            mine.weight.copy_(theirs.weight)
            if mine.bias is not None and theirs.bias is not None:
                mine.bias.copy_(theirs.bias)
            row = theirs.bits.index(mine.bits[0])
            _take_scale(mine.scales, theirs.scales, row)
            if layer.batchnorm is not None:
                norm, source = model.batchnorm(layer.batchnorm), joint.batchnorm(layer.batchnorm)
                for name in ("weight", "bias", "running_mean", "running_var"):
                    getattr(norm, name)[0].copy_(getattr(source, name)[row])
        for quantizer in model.placement.quantizers:
            act, source_act = model.act_quantizer(quantizer.name), joint.act_quantizer(quantizer.name)
            _take_scale(act.scales, source_act.scales, source_act.bits.index(act.bits[0]))


def _take_scale(mine: LearnedScales, theirs: LearnedScales, row: int) -> None:
    mine.log_scale.copy_(theirs.log_scale[row : row + 1])
    mine.first.copy_(theirs.first[row : row + 1])


def _application(
    layer: nn.Conv2d | nn.Linear,
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]:
    if isinstance(layer, nn.Linear):
        return F.linear
    stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups

    def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    return convolve
