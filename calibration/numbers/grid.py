"""Grids: which numbers a quantizer may emit."""

from dataclasses import dataclass

from limpq_deploy.calibration.numbers.formats import LARGEST_FP8


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantGrid:
    """Codes a quantizer may emit, both ends included: integers, or numbers of FP8.

    Signed: ``[-2^(b-1), 2^(b-1) - 1]``; narrow drops the lowest code, so that a grid is symmetric and a sign can be
    folded into the codes. Unsigned: ``[0, 2^b - 1]``. Offset: ``2^b`` codes, a sixteenth of them (at least one) below
    0, for tensors whose negative values are few and small: ``[-2^(b-4), 2^b - 1 - 2^(b-4)]``. ``fp8``: the 253 finite
    numbers of E4M3, from -448 to 448, finer towards 0.
    """

    bits: int
    signed: bool
    narrow: bool = False
    offset: bool = False
    fp8: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"a grid has 2 to 8 bits, not {self.bits}")
        if self.narrow and not self.signed:
            raise ValueError("only a signed grid can be narrow")
        if self.offset and (self.narrow or not self.signed):
            raise ValueError("an offset grid is signed and not narrow")
        if self.fp8 and (self.bits != 8 or not self.signed or self.narrow or self.offset):
            raise ValueError("FP8 has 8 bits, a sign, and no other form")

    @property
    def qmin(self) -> int:
        if self.fp8:
            return -int(LARGEST_FP8)
        if self.offset:
            return -(2 ** max(self.bits - 4, 0))
        return -(2 ** (self.bits - 1)) + self.narrow if self.signed else 0

    @property
    def qmax(self) -> int:
        if self.fp8:
            return int(LARGEST_FP8)
        if self.offset:
            return 2**self.bits - 1 + self.qmin
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1
