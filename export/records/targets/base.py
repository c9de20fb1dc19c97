"""What a target is: the integer dialect of a runtime, the runtime, and how files are written for it. Data alone."""

from dataclasses import dataclass
from typing import Literal

from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.calibration.numbers.grid import QuantGrid

WIDEST_GRID = 8
"""Bits of the widest integer grid; a policy that says more, and not FP8, keeps the tensor in float."""

FP8_GRID = QuantGrid(bits=8, signed=True, fp8=True)


def in_float(bits: int) -> bool:
    """Whether a tensor of these nominal bits is kept in float."""
    return bits > WIDEST_GRID and bits != FP8


@dataclass(frozen=True, slots=True, kw_only=True)
class FileForm:
    """How a Q/DQ file is written for one version of a runtime.

    ``version``: of the runtime, None where all versions read one form. ``weights``: int8 initializers with a
    DequantizeLinear, or FP32 ones with a pair. ``typed``: every tensor's type is taken from the file (strong typing),
    so that layers of 16 bits are written in FP16; else the builder chooses among what its flags allow. ``parser``: the
    version of TensorRT whose parser has the rules of the one that reads the file; None where it is another's.
    ``fp8``: whether layers in FP8 are written in it.
    """

    version: str | None
    opset: int
    weights: Literal["int8", "float32"]
    typed: bool
    parser: Literal["8.6", "10", "11"] | None = None
    fp8: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSpec:
    """What executes files, as far as it is known without loading it.

    ``title``: what people call it. ``code``: what drives it, ``module:class`` below `export.runtimes`; None where files
    are written for it and nothing here runs them. ``dialect``: of the Q/DQ files that it executes as they are meant:
    the module of that name in `export.lint` has the rules for them, that in `export.qdq` writes them, or ``writer``
    where that is another one, whose files keep to the same rules. ``device``: what computes, and keeps the clock.
    ``threads``: numbers of threads that latency is measured with. ``engines``: whether it compiles a file, by settings
    of a builder, into an engine. ``distributions``: packages that bring it, by the names under which they are
    installed. ``compiled_by``: name of the runtime whose compiler judges its files on any machine, its own or a
    relative; None where there is none. ``begins``: first bytes of its serialized engines, as ASCII.
    """

    name: str
    title: str
    code: str | None
    dialect: str
    device: Literal["cpu", "gpu"]
    threads: tuple[Literal["default"] | int, ...]
    engines: bool
    distributions: tuple[str, ...]
    begins: str = ""
    compiled_by: str | None = None
    writer: str | None = None

    @property
    def written_by(self) -> str:
        """The module of `export.qdq` that writes its files."""
        return self.writer or self.dialect

    @property
    def prices(self) -> bool:
        """Whether its own compiler builds on any machine, and so says without a device what kernels move."""
        return self.compiled_by == self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """A runtime's integer dialect.

    ``runs_on``: what executes it; None for a placement that is trained and never deployed. ``act_container``: type that
    holds activation codes. ``signed_zero_point``: container code of real 0 for a tensor with negative values (a tensor
    without them has zero-point 0). ``offset_zero_point``: the same for a tensor whose negative values are few and small
    (behind a SiLU); None where the hardware knows no such grid and takes a signed one. ``unsigned_acts``: whether codes
    above 127 exist, that is, whether 8 bits after a ReLU give 0..255 (True) or 0..127 (False). ``clip``: how a grid
    below 8 bits is cut: on the integer codes after Q, on the floats before it, or not exported. ``add_inputs``: which
    inputs of a residual Add carry a quantizer; with "all", those of products, concatenations and gates (sigmoid) do
    too. ``pools``: whether a global pool's input does. ``carrier_bits``: width at which such tensors travel;
    ``float_streams``: those that only layers in float read travel in float.
    ``shared_inputs``: layers that read one tensor share one activation quantizer. ``single_q``: a float tensor's
    quantizer stands behind it, for all its readers; else on edges, where it is read. ``bias``: type in which a layer's
    bias is executed: rounded to the accumulator's grid, or as it is. ``half_sums``: sums of products of codes are
    rounded once to float16, times a power of two (`half_sums.sum_step`). ``native_pairs``: (weight, activation) bits
    that the hardware executes; a layer runs in the smallest pair that holds it. Last pair: float. ``linear_pairs``:
    pairs that linear layers alone may take besides (weights stored narrow, computed as wide as activations).

    ``float_baseline``: type in which the float model runs unless a build asks for another. ``forms``: of its files, the
    oldest first, which all later versions read; none where it is not exported. ``form_key``: metadata of a file that
    names the version it is written for; None where files say none. ``settings``: of a build, those that have an effect
    on targets that name them alone.
    """

    name: str
    description: str
    runs_on: RuntimeSpec | None
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
    linear_pairs: tuple[tuple[int, int], ...] = ()
    weight_blocks: tuple[int, ...] = ()
    half_sums: bool = False
    float_streams: bool = False
    float_baseline: Literal["float16", "float32"] = "float32"
    forms: tuple[FileForm, ...] = ()
    form_key: str | None = None
    settings: tuple[str, ...] = ()

    @property
    def runtime(self) -> str | None:
        """Name of what executes it."""
        return None if self.runs_on is None else self.runs_on.name

    @property
    def exportable(self) -> bool:
        """Whether files are written for it; else it is a placement that is trained, never deployed."""
        return bool(self.forms)

    @property
    def device(self) -> Literal["cpu", "gpu"] | None:
        """What computes; None where nothing executes it."""
        return None if self.runs_on is None else self.runs_on.device

    @property
    def builds_engines(self) -> bool:
        """Whether its runtime compiles a file into an engine."""
        return self.runs_on is not None and self.runs_on.engines

    @property
    def compiled_by(self) -> str | None:
        """The runtime whose compiler judges its files on any machine; None where there is none."""
        return None if self.runs_on is None else self.runs_on.compiled_by

    @property
    def opset(self) -> int:
        """Operator set of its oldest form."""
        return self.forms[0].opset

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions of its runtime that files are written for, the oldest first; none where one form serves all."""
        return tuple(form.version for form in self.forms if form.version is not None)

    @property
    def float_widths(self) -> frozenset[int]:
        """Widths at which a policy keeps weights or activations in float, such as 16 and 32."""
        pairs = (*self.native_pairs, *self.linear_pairs)
        return frozenset(bits for pair in pairs for bits in pair if in_float(bits))

    def holds(self, weight_bits: int, act_bits: int, *, linear: bool) -> bool:
        """Whether a layer (``linear``: or a convolution) of these bits can be deployed: both fit a grid, or the pair is
        one that the target executes with floats."""
        pair = (weight_bits, act_bits)
        natively = pair in (*self.native_pairs, *(self.linear_pairs if linear else ()))
        return natively or not (FP8 in pair or in_float(max(pair)))

    @property
    def has_fp8(self) -> bool:
        """Whether its hardware, some of it, executes layers in FP8."""
        return (FP8, FP8) in self.native_pairs

    def block_of(self, inputs: int) -> int | None:
        """How many weights in a row share one scale, in a linear layer of so many inputs that reads floats and has
        weights of at most 4 bits; None: all of an output. A row has two blocks or more: one is no block to a compiler,
        which then dequantizes the whole weight at every call."""
        return next((size for size in self.weight_blocks if inputs % size == 0 and inputs > size), None)

    def weight_grid(self, bits: int) -> QuantGrid:
        """Grid of a weight; symmetric at 8 bits, so that a negative BatchNorm gamma can flip the codes' sign."""
        if bits == FP8:
            return FP8_GRID
        return QuantGrid(bits=bits, signed=True, narrow=self.exportable and bits == 8)

    def act_grid(self, bits: int, *, signed: bool, offset: bool = False) -> QuantGrid:
        """Grid of an activation; 8 unsigned bits become 0..127 where the container has no codes above."""
        if bits == FP8:
            return FP8_GRID
        if not signed and bits == 8 and not self.unsigned_acts:
            return QuantGrid(bits=7, signed=False)
        return QuantGrid(bits=bits, signed=signed, offset=offset and self.offset_zero_point is not None)

    def zero_point(self, *, signed: bool, offset: bool = False) -> int:
        """Container code of real 0."""
        if offset and self.offset_zero_point is not None:
            return self.offset_zero_point
        return self.signed_zero_point if signed else 0

    def realised_pair(self, weight_bits: int, act_bits: int) -> tuple[int, int]:
        """The (weight, activation) bits at which the hardware executes a layer of these nominal bits. FP8 is executed
        as such or in float, never as integers, and integers never as FP8."""
        asked = (weight_bits, act_bits)
        if asked in self.native_pairs:
            return asked
        for pair in self.native_pairs:
            if weight_bits <= pair[0] and act_bits <= pair[1] and FP8 not in pair:
                return pair
        return self.native_pairs[-1]
