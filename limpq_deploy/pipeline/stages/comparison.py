"""What a build sets beside its policy: uniform bits within its limits, int8 and, where it is admitted, FP8."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from limpq_deploy.calibration.numbers.formats import FP8, pair_name
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.workspace.file_names import COMPARISON


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The uniform (weight, activation) bits within the same budgets and restrictions, to set beside the policy.

    ``pair`` None: no uniform policy keeps them. ``same``: the policy is that uniform one. ``unrestricted``: where the
    restrictions alone (lower bounds, pins, the search space) leave none, the pair within the budgets alone. ``fp8``:
    FP8 is among the formats that were asked for, so that it is set beside the policy too.
    """

    pair: BitPair | None
    same: bool
    unrestricted: BitPair | None = None
    fp8: bool = False
    format: Literal["limpq.comparison/1"] = field(default="limpq.comparison/1")

    @property
    def bits(self) -> str | None:
        """``w4a4``."""
        return None if self.pair is None else _text(self.pair)

    @property
    def is_fp8(self) -> bool:
        """Whether the uniform policy is FP8 itself."""
        return self.pair == (FP8, FP8)

    def sentence(self) -> str:
        """What the policy is set beside, or why nothing."""
        if self.pair is not None:
            return f"beside {_text(self.pair)}"
        if self.unrestricted is not None:
            return f"no uniform policy keeps the restrictions ({_text(self.unrestricted)} keeps the budgets alone)"
        return "no uniform policy fits"


def _text(pair: BitPair) -> str:
    return pair_name(pair)


def own_pair(path: Path) -> BitPair | None:
    """Bits of the uniform policy that is trained for comparison; None where there is none, or none of its own."""
    comparison = load_record(Comparison, path)
    return None if comparison.same else comparison.pair


def eight_bits(subject: Deployed) -> dict[str, BitPair]:
    """8 bits in every searched layer: the file that many would ship without asking."""
    return {layer.name: (8, 8) for layer in subject.placement.searched}


def has_own_fp8(path: Path) -> bool:
    """Whether FP8 everywhere has a file of its own: it is admitted, and is not the uniform policy."""
    comparison = load_record(Comparison, path)
    return comparison.fp8 and not comparison.is_fp8


def fp8_pairs(subject: Deployed) -> dict[str, BitPair]:
    """FP8 in every searched layer."""
    return {layer.name: (FP8, FP8) for layer in subject.placement.searched}


def compared_pairs(subject: Deployed, folder: Path) -> dict[str, BitPair] | None:
    """The same by layer."""
    pair = own_pair(folder / COMPARISON)
    return None if pair is None else {layer.name: pair for layer in subject.placement.searched}
