"""What a runtime executes, described once. Placement, training, export, lint and verdict read this and nothing else."""

from dataclasses import dataclass
from typing import Literal

from limpq_deploy.calibration.errors import ModelError
from limpq_deploy.calibration.numbers.grid import QuantGrid

WIDEST_GRID = 8
"""Bits of the widest integer grid; a policy that says more keeps the tensor in float."""


def in_float(bits: int) -> bool:
    """Whether a tensor of these nominal bits is kept in float."""
    return bits > WIDEST_GRID


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """A runtime's integer dialect.

    ``act_container``: type that holds activation codes. ``signed_zero_point``: container code of real 0 for a tensor
    with negative values (a tensor without them has zero-point 0). ``offset_zero_point``: the same for a tensor whose
    negative values are few and small (behind a SiLU); None where the hardware knows no such grid and takes a signed
    one. ``unsigned_acts``: whether codes above 127 exist, that is, whether 8 bits after a ReLU give 0..255 (True) or
    0..127 (False). ``clip``: how a grid below 8 bits is cut: on the integer codes after Q, on the floats before it, or
    not exported. ``add_inputs``: which inputs of a residual Add carry a quantizer; with "all", those of products,
    concatenations and gates (sigmoid) do too. ``pools``: whether a global pool's input does. ``carrier_bits``: width at
    which such tensors travel. ``shared_inputs``: layers that read one tensor share one activation quantizer.
    ``single_q``: a float tensor takes exactly one Q; readers with narrower grids re-quantize its codes. ``bias``: type
    in which a layer's bias is executed: rounded to the accumulator's grid, or as it is. ``native_pairs``: (weight,
    activation) bits that the hardware executes; a layer runs in the smallest pair that holds it. Last pair: float.
    ``opset``: of the file. ``exportable``: False for a placement that is trained, never deployed. ``linear_pairs``:
    pairs that linear layers alone may take besides (weights stored narrow, computed as wide as activations).
    """

    name: str
    description: str
    runtime: str | None
    act_container: Literal["uint8", "int8"]
    signed_zero_point: int
    offset_zero_point: int | None
    unsigned_acts: bool
    clip: Literal["integer", "float", "none"]
    add_inputs: Literal["all", "identity", "none"]
    pools: bool
    carrier_bits: int
    shared_inputs: bool
    single_q: bool
    bias: Literal["int32", "float32"]
    native_pairs: tuple[tuple[int, int], ...]
    opset: int
    exportable: bool
    linear_pairs: tuple[tuple[int, int], ...] = ()

    @property
    def float_widths(self) -> frozenset[int]:
        """Widths at which a policy keeps weights or activations in float, such as 16 and 32."""
        pairs = (*self.native_pairs, *self.linear_pairs)
        return frozenset(bits for pair in pairs for bits in pair if in_float(bits))

    def holds(self, weight_bits: int, act_bits: int, *, linear: bool) -> bool:
        """Whether a layer (``linear``: or a convolution) of these bits can be deployed: both fit a grid, or the pair is
        one that the target executes with floats."""
        pair = (weight_bits, act_bits)
        return not (in_float(max(pair)) and pair not in (*self.native_pairs, *(self.linear_pairs if linear else ())))

    def weight_grid(self, bits: int) -> QuantGrid:
        """Grid of a weight; symmetric at 8 bits, so that a negative BatchNorm gamma can flip the codes' sign."""
        return QuantGrid(bits=bits, signed=True, narrow=self.exportable and bits == 8)

    def act_grid(self, bits: int, *, signed: bool, offset: bool = False) -> QuantGrid:
        """Grid of an activation; 8 unsigned bits become 0..127 where the container has no codes above."""
        if not signed and bits == 8 and not self.unsigned_acts:
            return QuantGrid(bits=7, signed=False)
        return QuantGrid(bits=bits, signed=signed, offset=offset and self.offset_zero_point is not None)

    def zero_point(self, *, signed: bool, offset: bool = False) -> int:
        """Container code of real 0."""
        if offset and self.offset_zero_point is not None:
            return self.offset_zero_point
        return self.signed_zero_point if signed else 0

    def realised_pair(self, weight_bits: int, act_bits: int) -> tuple[int, int]:
        """The (weight, activation) bits at which the hardware executes a layer of these nominal bits."""
        for pair in self.native_pairs:
            if weight_bits <= pair[0] and act_bits <= pair[1]:
                return pair
        return self.native_pairs[-1]


ONNXRUNTIME = TargetSpec(
    name="onnxruntime",
    description="ONNX Runtime on a CPU: u8 activations, s8 weights per channel, integers from first to last layer",
    runtime="onnxruntime",
    act_container="uint8",
    signed_zero_point=128,
    offset_zero_point=16,
    unsigned_acts=True,
    clip="integer",
    add_inputs="all",
    pools=True,
    carrier_bits=8,
    shared_inputs=True,
    single_q=True,
    bias="int32",
    native_pairs=((8, 8), (32, 32)),
    opset=21,
    exportable=True,
)

TENSORRT = TargetSpec(
    name="tensorrt",
    description="TensorRT on an NVIDIA GPU: s8 activations with zero-point 0, s8 weights per channel",
    runtime="tensorrt",
    act_container="int8",
    signed_zero_point=0,
    offset_zero_point=None,
    unsigned_acts=False,
    clip="float",
    add_inputs="identity",
    pools=False,
    carrier_bits=8,
    shared_inputs=True,
    single_q=False,
    bias="float32",
    native_pairs=((8, 8), (16, 16), (32, 32)),
    opset=17,
    exportable=True,
    linear_pairs=((4, 16),),
)

REFERENCE = TargetSpec(
    name="reference",
    description="The paper's own placement: one quantizer on each layer's input and weight, nothing else; not exported",
    runtime=None,
    act_container="uint8",
    signed_zero_point=128,
    offset_zero_point=16,
    unsigned_acts=True,
    clip="none",
    add_inputs="none",
    pools=False,
    carrier_bits=8,
    shared_inputs=False,
    single_q=False,
    bias="float32",
    native_pairs=((32, 32),),
    opset=21,
    exportable=False,
)

TARGETS = {target.name: target for target in (ONNXRUNTIME, TENSORRT, REFERENCE)}


def target_named(name: str) -> TargetSpec:
    """The target of this name. Raises ModelError with the known names."""
    if name not in TARGETS:
        raise ModelError(f"unknown target {name!r}; known targets: {', '.join(TARGETS)}")
    return TARGETS[name]
