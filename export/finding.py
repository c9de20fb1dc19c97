"""What a lint says."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One breach of a rule: where, which, what follows from it, what to do."""

    node: str
    rule: str
    consequence: str
    remedy: str
