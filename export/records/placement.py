"""Placement: which tensor of which layer carries which grid.

A torch-free record, made once by ``limpq_deploy.model.place`` for a model and a target. Training puts these quantizers
into the torch graph, ``qdq`` writes them, ``lint`` checks them and ``parity`` proves them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.calibration.numbers.grid import QuantGrid
from limpq_deploy.export.records.targets import TargetSpec, in_float, target_named

BitPair = tuple[int, int]
"""(weight_bits, act_bits) of one layer, as `formats` has widths."""

FLOAT_BITS = 32
"""Bits of a weight or an activation that a policy keeps in float32."""


BLOCKED_BITS = 4
"""Widest weights that have a scale for each block; wider ones have one a channel."""

BLOCK_SCALE_BITS = 16
"""Bits of the scale of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActQuantizer:
    """One activation quantizer.

    ``name``: its marker in graphs and its key in checkpoints. ``tensor``: node of the traced graph that makes the float
    tensor. ``signed``: the tensor has negative values; ``offset``: few and small ones, so that an offset grid serves
    it. ``bound``: value at which the tensor's own operation cuts (6 behind a ReLU6); None where it does not. ``bits``:
    fixed width, or None where the policy decides (all ``layers`` share the choice). ``layers``: layers whose input this
    is. ``parent``: quantizer whose codes this one re-quantizes; None when it reads the float tensor. Where layers share
    quantizers, a float tensor has exactly one with ``parent`` None. ``producer``: layer whose result the tensor is
    (behind BatchNorm and ReLU); None where another operation makes it.
    """

    name: str
    tensor: str
    signed: bool
    bits: int | None
    layers: tuple[str, ...] = ()
    parent: str | None = None
    offset: bool = False
    bound: float | None = None
    producer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlacement:
    """One quantized layer: ``input`` names its activation quantizer, ``pinned_bits`` is None where it is searched.

    ``batchnorm``: module folded into it on export. ``macs``: multiply-accumulates for one image. ``num_weights``:
    without the bias. ``out_channels``: the weight's axis 0. ``block``: where the layer reads floats, how many weights
    in a row (along the inputs) share one scale while they have at most `BLOCKED_BITS`; None: one scale a channel.
    """

    name: str
    kind: Literal["conv", "linear"]
    input: str
    macs: int
    num_weights: int
    out_channels: int
    pinned_bits: int | None = None
    batchnorm: str | None = None
    block: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatOperator:
    """An operator that is computed in float between quantizers.

    ``name``: its node of the traced graph; ``operator``: what it calls, as "LayerNorm"; ``why`` it has no integer form,
    a sentence. ``macs`` for one image; ``num_weights``: its parameters, all of them.
    """

    name: str
    operator: str
    why: str
    macs: int = 0
    num_weights: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """All quantizers of a model for a target, in execution order, and what is computed in float between them. Raises
    ValueError when names do not fit together."""

    model: str
    target: str
    input_shape: tuple[int, ...]
    layers: tuple[LayerPlacement, ...]
    quantizers: tuple[ActQuantizer, ...]
    float_operators: tuple[FloatOperator, ...] = ()
    format: Literal["limpq.placement/1"] = field(default="limpq.placement/1")

    def __post_init__(self) -> None:
        names = [quantizer.name for quantizer in self.quantizers]
        if len(set(names)) != len(names):
            raise ValueError("two activation quantizers have one name")
        for quantizer in self.quantizers:
            if quantizer.parent is not None and quantizer.parent not in names:
                raise ValueError(f"quantizer {quantizer.name!r} re-quantizes unknown {quantizer.parent!r}")
        for layer in self.layers:
            if layer.input not in names:
                raise ValueError(f"layer {layer.name!r} reads unknown quantizer {layer.input!r}")

    @property
    def spec(self) -> TargetSpec:
        return target_named(self.target)

    @property
    def searched(self) -> tuple[LayerPlacement, ...]:
        return tuple(layer for layer in self.layers if layer.pinned_bits is None)

    @property
    def pinned(self) -> tuple[LayerPlacement, ...]:
        return tuple(layer for layer in self.layers if layer.pinned_bits is not None)

    @property
    def weights_only(self) -> bool:
        """Whether activations are floats everywhere, so that weights alone are integers."""
        return all(quantizer.bits is not None and in_float(quantizer.bits) for quantizer in self.quantizers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image, those of float operators with them."""
        return sum(layer.macs for layer in self.layers) + sum(one.macs for one in self.float_operators)

    @property
    def float_share(self) -> float:
        """Of all multiply-accumulates, those of float operators: 0 to 1."""
        return sum(one.macs for one in self.float_operators) / max(self.macs, 1)

    @property
    def floats_in_words(self) -> str:
        """The float operators, counted, those with most multiply-accumulates first: ``12 LayerNorm, softmax``."""
        work = Counter[str]()
        for one in self.float_operators:
            work[one.operator] += one.macs
        counts = Counter(one.operator for one in self.float_operators)
        named = sorted(counts, key=lambda name: (-work[name], -counts[name]))
        return ", ".join(name if counts[name] == 1 else f"{counts[name]} {name}" for name in named)

    def layer(self, name: str) -> LayerPlacement:
        return next(layer for layer in self.layers if layer.name == name)

    def quantizer(self, name: str) -> ActQuantizer:
        return next(quantizer for quantizer in self.quantizers if quantizer.name == name)

    def act_group(self, layer: LayerPlacement) -> str | None:
        """Name shared by searched layers that read one tensor; None where a layer is alone or inputs are not shared."""
        if not self.spec.shared_inputs:
            return None
        readers = [other.name for other in self.searched if other.input == layer.input]
        return layer.input if len(readers) > 1 else None

    def deciding(self, quantizer: ActQuantizer) -> tuple[str, ...]:
        """Layers whose types decide whether a tensor travels in float: those that read a quantizer's codes, or codes
        that are made of these; where there is none, the one that makes the tensor."""
        again = (one for one in self.quantizers if one.parent == quantizer.name)
        readers = (*quantizer.layers, *(name for one in again for name in one.layers))
        return readers or ((quantizer.producer,) if quantizer.producer is not None else ())

    def float_layers(self, policy: Mapping[str, BitPair]) -> tuple[str, ...]:
        """Layers that the policy keeps in float: weight, activations or both have more bits than a grid."""
        if self.weights_only:
            return tuple(layer.name for layer in self.layers)
        return tuple(layer.name for layer in self.layers if self._in_float(layer.name, policy))

    def weight_grids(self, policy: Mapping[str, BitPair]) -> dict[str, QuantGrid]:
        """Weight grid of every layer whose weight has one. ``policy`` gives (weight_bits, act_bits) of the searched
        ones."""
        widths = {layer.name: layer.pinned_bits or policy[layer.name][0] for layer in self.layers}
        return {name: self.spec.weight_grid(bits) for name, bits in widths.items() if not in_float(bits)}

    def act_grids(self, policy: Mapping[str, BitPair]) -> dict[str, QuantGrid]:
        """Grid of every quantizer that does something; see `act_widths`."""
        placed = {quantizer.name: quantizer for quantizer in self.quantizers}
        return {
            name: self.spec.act_grid(bits, signed=placed[name].signed, offset=placed[name].offset)
            for name, bits in self.act_widths(policy).items()
        }

    def act_widths(self, policy: Mapping[str, BitPair]) -> dict[str, int]:
        """Bits of every quantizer that does something.

        A tensor of fixed width that only layers in FP8 read travels in FP8 itself (see `width_of`). A re-quantizer that
        `passes` is left out, and its readers take the parent's codes; floats too, for a layer that
        is kept in float. So is a quantizer whose readers are kept in float; but where a target's layers end in codes
        (``single_q``), a tensor that is not itself made by a float layer still travels as codes, at ``carrier_bits``.
        A tensor that sums read too travels as codes, but with ``float_streams`` in float where its layers are.
        Raises ValueError when layers that share a quantizer have different activation bits.
        """
        widths: dict[str, int] = {}
        for quantizer in self.quantizers:
            bits = self.width_of(quantizer, policy)
            if self.spec.float_streams and quantizer.parent is None and quantizer.bits is not None:
                deciding = self.deciding(quantizer)
                if deciding and all(self._in_float(name, policy) for name in deciding):
                    continue
            parent = widths.get(quantizer.parent) if quantizer.parent else None
            if parent is not None and self.passes(quantizer, bits, parent):
                continue
            if in_float(bits):
                if self.weights_only or not self.spec.single_q or self._in_float(quantizer.producer, policy):
                    continue
                bits = self.spec.carrier_bits
            widths[quantizer.name] = bits
        return widths

    def width_of(self, quantizer: ActQuantizer, policy: Mapping[str, BitPair]) -> int:
        """Width of a quantizer under a policy. A fixed one (a residual stream at ``carrier_bits``) gives way to FP8
        where all layers that read its codes are in FP8: on integers they would each need a quantizer of their own.
        Raises ValueError as `act_widths`."""
        if quantizer.bits is None:
            return self._policy_bits(quantizer, policy)
        readers = self.readers_of(quantizer)
        in_fp8 = readers and all(policy.get(name, (0, 0))[1] == FP8 for name in readers)
        return FP8 if in_fp8 and quantizer.bits == self.spec.carrier_bits else quantizer.bits

    def readers_of(self, quantizer: ActQuantizer) -> tuple[str, ...]:
        """Layers that read a quantizer's codes, as they are or quantized again."""
        again = [name for one in self.quantizers if one.parent == quantizer.name for name in one.layers]
        return (*quantizer.layers, *again)

    def passes(self, quantizer: ActQuantizer, bits: int, parent_bits: int) -> bool:
        """Whether a re-quantizer of these bits is the identity: as wide as its parent, wider, or on a grid of as many
        codes (without codes above 127, 7 bits behind a ReLU are the grid of 8). Between integers and FP8 none is."""
        if FP8 in (bits, parent_bits):
            return bits == parent_bits
        if in_float(parent_bits) or bits >= parent_bits:
            return bits >= parent_bits
        grids = [
            self.spec.act_grid(one, signed=quantizer.signed, offset=quantizer.offset) for one in (bits, parent_bits)
        ]
        return grids[0] == grids[1]

    def _in_float(self, layer: str | None, policy: Mapping[str, BitPair]) -> bool:
        return layer is not None and layer in policy and any(in_float(bits) for bits in policy[layer])

    def _policy_bits(self, quantizer: ActQuantizer, policy: Mapping[str, BitPair]) -> int:
        chosen = {policy[name][1] for name in quantizer.layers if name in policy}
        if len(chosen) != 1:
            raise ValueError(
                f"layers {', '.join(quantizer.layers)} share the quantizer {quantizer.name!r}: "
                f"they need one activation bit-width, found {sorted(chosen)}"
            )
        return chosen.pop()
