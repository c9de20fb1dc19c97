"""The quantized torch model, for one or several bit-widths."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.calibration.numbers.params import Scales
from limpq_deploy.calibration.numbers.ranges import least_squares, lsq_mean_abs, power_of_two, three_sigma
from limpq_deploy.calibration.observe import observe_inputs
from limpq_deploy.export.records.placement import FLOAT_BITS, ActQuantizer, BitPair, LayerPlacement, Placement
from limpq_deploy.export.records.targets import in_float
from limpq_deploy.model.layers import TracedModel
from limpq_deploy.model.place import QUANTIZERS, with_quantizers
from limpq_deploy.quant.fake_quant import LearnedScales
from limpq_deploy.quant.modules import ActFakeQuant, QuantLayer, SwitchableBatchNorm
from limpq_deploy.quant.runtime_arithmetic import compute_as_exported
from limpq_deploy.quant.shared_head import SharedHead, SharedRun, shared_head


class QuantizedModel(nn.Module):
    """A traced model with the quantizers of a placement.

    ``candidates`` gives each searched layer its (weight bits, activation bits) to learn: several for joint training,
    one each for fine-tuning, none for what stays in float. Pinned layers and carriers have their fixed width.
    `set_bits` chooses. ``streams``: widths of quantizers whose bits the placement fixes, where FP8 may take their
    place. ``scales``: learned freely, or as powers of two, those of weights as they are when BatchNorm is folded in.
    ``share``: weights of layers are the traced model's own; for a model that is not trained.
    """

    def __init__(
        self,
        traced: TracedModel,
        placement: Placement,
        candidates: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
        scales: Scales = "free",
        streams: Mapping[str, tuple[int, ...]] | None = None,
        *,
        share: bool = False,
    ) -> None:
        super().__init__()
        self.placement = placement
        self.pow2 = scales == "pow2"
        spec = placement.spec

        def make(quantizer: ActQuantizer) -> ActFakeQuant:
            bits = (streams or {}).get(quantizer.name) or (
                _quantized(quantizer.bits) if quantizer.bits is not None else candidates[quantizer.layers[0]][1]
            )
            grids = (spec.act_grid(b, signed=quantizer.signed, offset=quantizer.offset) for b in bits)
            return ActFakeQuant(quantizer, bits, tuple(grids), pow2=self.pow2)

        self.graph = with_quantizers(traced, placement, make, share=share)
        for quantizer in placement.quantizers:
            if quantizer.parent is not None:
                self.act_quantizer(quantizer.name).above = (self.act_quantizer(quantizer.parent),)
        if self.pow2:
            compute_as_exported(self.graph, traced, placement.spec)
        for layer in placement.layers:
            self._replace_layer(layer, candidates)
        self._common: SharedHead | None = None
        self._once: SharedRun | None = None
        self.set_float()

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return self.graph(images_NCHW) if self._once is None else self._once(images_NCHW)

    @contextlib.contextmanager
    def passes_over_one_batch(self) -> Iterator[None]:
        """Within it every forward pass is over one batch (the same tensor), and what no bit-width changes is computed
        once for all of them (see `shared_head`); gradients are complete when it ends. Those of weights may be added up
        unseen by autograd, in one pass over memory less."""
        if self._common is None:
            self._common = shared_head(self.graph, _switches)
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

    def float_state(self) -> dict[str, torch.Tensor]:
        """What belongs to no layer, BatchNorm or quantizer, by name in the graph: parameters and buffers of what is
        computed in float, which are trained as they are."""
        own = {QUANTIZERS, *(name for layer in self.placement.layers for name in (layer.name, layer.batchnorm))}
        return {
            name: tensor
            for name, tensor in self.graph.state_dict().items()
            if not any(prefix is not None and name.startswith(f"{prefix}.") for prefix in own)
        }

    def set_bits(self, policy: Mapping[str, BitPair]) -> None:
        """Use these (weight, activation) bits in the searched layers; a BatchNorm follows its layer's weight bits (the
        widest that there is, where those are float). In front of a layer that runs in float the quantizer that the
        placement keeps (`Placement.act_widths`) is in use where it was made, as in a `model_of_policy`."""
        for layer in self.placement.layers:
            bits = layer.pinned_bits or policy[layer.name][0]
            self.quant_layer(layer.name).active = None if in_float(bits) else bits
            if layer.batchnorm is not None:
                norm = self.batchnorm(layer.batchnorm)
                norm.active = norm.bits[-1] if in_float(bits) else bits
        floats = any(in_float(pair[1]) for pair in policy.values())
        widths = self.placement.act_widths(policy) if floats else {}
        for quantizer in self.placement.quantizers:
            module = self.act_quantizer(quantizer.name)
            fixed = quantizer.bits is not None
            chosen = self.placement.width_of(quantizer, policy) if fixed else policy[quantizer.layers[0]][1]
            left_out = floats and quantizer.parent is None and quantizer.name not in widths
            if not in_float(chosen) and not left_out:
                module.active = chosen
            else:
                kept = widths.get(quantizer.name)
                module.active = kept if kept in module.bits else None

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
            module.scales.initialise(self.allowed(scales, values, module.scales.grids))

        was_training = self.training
        self.eval()
        observe_inputs(self, quantizers, images_NCHW, look)
        self.train(was_training)
        for layer in self.placement.layers:
            module = self.quant_layer(layer.name)
            first = least_squares if len(module.bits) == 1 else three_sigma
            module.initialise([first(module.weight.detach(), grid) for grid in module.scales.grids])

    def allowed(self, scales: list[float], values: torch.Tensor, grids: tuple[QuantGrid, ...]) -> list[float]:
        """Scales of an activation, as powers of two where they have to be."""
        if not self.pow2:
            return scales
        return [power_of_two(values, grid, scale) for scale, grid in zip(scales, grids, strict=True)]

    def _replace_layer(
        self, layer: LayerPlacement, candidates: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> None:
        spec = self.placement.spec
        bits = (layer.pinned_bits,) if layer.pinned_bits is not None else candidates[layer.name][0]
        original = self.graph.get_submodule(layer.name)
        assert isinstance(original, nn.Conv2d | nn.Linear)
        fold_factor = None
        if layer.batchnorm is not None:
            norm = self.graph.get_submodule(layer.batchnorm)
            assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
            switchable = SwitchableBatchNorm(norm, bits or (FLOAT_BITS,))
            self.graph.set_submodule(layer.batchnorm, switchable)
            fold_factor = switchable.fold_factor
        grids = tuple(spec.weight_grid(b) for b in bits)
        quantized = QuantLayer(original, bits, grids, pow2=self.pow2, fold_factor=fold_factor, block=layer.block)
        self.graph.set_submodule(layer.name, quantized)


def _searched(placement: Placement, quantizer: ActQuantizer) -> bool:
    """Whether all layers that read a quantizer's codes are searched, so that they may all be in FP8."""
    searched = {layer.name for layer in placement.searched}
    readers = placement.readers_of(quantizer)
    return bool(readers) and searched.issuperset(readers)


def _switches(module: nn.Module) -> bool:
    """Whether a module computes something else at another bit-width."""
    return isinstance(module, ActFakeQuant | QuantLayer | SwitchableBatchNorm) and len(module.bits) > 1


def joint_model(
    traced: TracedModel, placement: Placement, bits: tuple[int, ...], *, share: bool = False
) -> QuantizedModel:
    """Every searched layer with every bit-width of the list. ``share``: as in `QuantizedModel`."""
    streams = {
        quantizer.name: (quantizer.bits, FP8)
        for quantizer in placement.quantizers
        if FP8 in bits and quantizer.bits == placement.spec.carrier_bits and _searched(placement, quantizer)
    }
    candidates = {layer.name: (bits, bits) for layer in placement.searched}
    model = QuantizedModel(traced, placement, candidates, streams=streams, share=share)
    for quantizer in placement.quantizers:
        parent = placement.quantizer(quantizer.parent) if quantizer.parent else None
        if parent is not None and parent.bits is not None:
            same = [one for one in bits if placement.passes(quantizer, one, parent.bits)]
            model.act_quantizer(quantizer.name).identity_from = min([*same, parent.bits])
    return model


def model_of_policy(
    traced: TracedModel,
    placement: Placement,
    policy: Mapping[str, BitPair],
    *,
    scales: Scales = "free",
    share: bool = False,
) -> QuantizedModel:
    """Every searched layer at its bits of the policy, switched on; scales are not yet set. ``share``: as in
    `QuantizedModel`."""
    widths = placement.act_widths(policy)
    candidates = {}
    for layer in placement.searched:
        weight, act = policy[layer.name]
        candidates[layer.name] = _quantized(weight), _quantized(widths.get(layer.input, act))
    model = QuantizedModel(
        traced,
        placement,
        candidates,
        scales,
        {one.name: (FP8,) for one in placement.quantizers if one.bits is not None and widths.get(one.name) == FP8},
        share=share,
    )
    for quantizer in placement.quantizers:
        if quantizer.name not in widths:
            model.act_quantizer(quantizer.name).identity_from = 0
    model.set_bits(policy)
    return model


def inherit(model: QuantizedModel, joint: QuantizedModel) -> None:
    """Take weights, the chosen bit-widths' scales and BatchNorms from a jointly trained model.

    A BatchNorm comes from its layer's weight bits (of the widest, where the weight stays in float); with other
    activation bits its statistics must be re-estimated.
    """
    model.graph.load_state_dict(joint.float_state(), strict=False)
    with torch.no_grad():
        for layer in model.placement.layers:
            mine, theirs = model.quant_layer(layer.name), joint.quant_layer(layer.name)
            mine.weight.copy_(theirs.weight)
            if mine.bias is not None and theirs.bias is not None:
                mine.bias.copy_(theirs.bias)
            row = theirs.bits.index(mine.bits[0]) if mine.bits else len(theirs.bits) - 1
            if mine.bits:
                _take_scale(mine.scales, theirs.scales, row)
            if layer.batchnorm is not None:
                norm, source = model.batchnorm(layer.batchnorm), joint.batchnorm(layer.batchnorm)
                for name in ("weight", "bias", "running_mean", "running_var"):
                    getattr(norm, name)[0].copy_(getattr(source, name)[row])
            mine.choose_octaves()
            mine.choose_spread()
        for quantizer in model.placement.quantizers:
            act, source_act = model.act_quantizer(quantizer.name), joint.act_quantizer(quantizer.name)
            if act.bits and act.bits[0] in source_act.bits:
                _take_scale(act.scales, source_act.scales, source_act.bits.index(act.bits[0]))
            elif act.bits:
                _take_range(act.scales, source_act.scales)


def _take_range(mine: LearnedScales, theirs: LearnedScales) -> None:
    """The scale that reaches as far as the widest one does; for a width that the joint model did not learn, in front of
    a layer that runs in float."""
    reach = theirs.values()[-1] * theirs.grids[-1].qmax
    mine.initialise([reach / grid.qmax for grid in mine.grids])


def _quantized(bits: int) -> tuple[int, ...]:
    return () if in_float(bits) else (bits,)


def _take_scale(mine: LearnedScales, theirs: LearnedScales, row: int) -> None:
    mine.log_scale.copy_(theirs.log_scale[row : row + 1])
    mine.first.copy_(theirs.first[row : row + 1])
