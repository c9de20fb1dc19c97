"""The uniform policy that a build sets beside its own."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from limpq_deploy.calibration.numbers.formats import pair_name
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.workspace.file_names import COMPARISON


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The uniform (weight, activation) bits within the same budgets and restrictions, to set beside the policy.

    ``pair`` None: no uniform policy keeps them. ``same``: the policy is that uniform one. ``unrestricted``: where the
    restrictions alone (lower bounds, pins, the search space) leave none, the pair within the budgets alone.
    """

    pair: BitPair | None
    same: bool
    unrestricted: BitPair | None = None
    format: Literal["limpq.comparison/1"] = field(default="limpq.comparison/1")

    @property
    def bits(self) -> str | None:
        """``w4a4``."""
        return None if self.pair is None else _text(self.pair)

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


def compared_pairs(subject: Deployed, folder: Path) -> dict[str, BitPair] | None:
    """The same by layer."""
    pair = own_pair(folder / COMPARISON)
    return None if pair is None else {layer.name: pair for layer in subject.placement.searched}
