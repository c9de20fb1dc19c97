"""The variants of importance as programs on one seed's indicators: what they measure, solve, and think of a policy."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import fsum
from pathlib import Path
from typing import Any

from importance import WEIGHTS, Pairs, budget_of
from importance_channels import KINDS, of_channels, of_scales
from importance_moves import around, moves, with_curves
from importance_pairs import Terms, pair_terms, solve_with_pairs, terms_taken

from limpq_deploy.pipeline.context import Subject
from limpq_deploy.policy.budgets import parse_like
from limpq_deploy.policy.importance_names import MEASURES, read_by
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.objective import objective_of
from limpq_deploy.policy.outliers import treat_outliers
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.quant.quantized_model import QuantizedModel

PAIR_BITS = (2, 3, 4)
"""Widths at which pairs are measured."""
QUARTER = ", weights / 4"
"""Behind the name of a measure whose weights count a quarter."""
VARIANTS = (
    *("pairs", "moves 1", "moves 2", "kl of float", "norm", "energy"),
    *(f"channels {kind}" for kind in KINDS),
    *(f"{name}{QUARTER}" for name in ("kl", "kl of float", "fisher", "channels mean")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """What one seed's joint training left. ``images``: that are measured on; ``measured``: what was, as ``file`` has
    it."""

    number: int
    subject: Subject
    indicators: Indicators
    joint: QuantizedModel
    images: int
    file: Path
    measured: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """A measure, from the file or made now; its CPU seconds are kept beside it."""
        if not self.measured and self.file.exists():
            self.measured.update(json.loads(self.file.read_text()))
        if name not in self.measured:
            start = time.process_time()
            self.measured[name] = measure()
            self.measured[f"{name}, seconds"] = round(time.process_time() - start, 1)
            self.file.write_text(json.dumps(self.measured))
        return self.measured[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Indicators read by a variant, the weight of weights, and what neighbours do together."""

    indicators: Indicators
    alpha: float = 1.0
    terms: Terms = field(default_factory=list)


def read_of(seed: Seed, budget: str, name: str, *, reach: bool = True) -> Read:
    """The program's input; what it needs and is not measured yet is measured. ``reach``: moves are kept to theirs."""
    indicators, split = seed.indicators, seed.subject.joint_data.split("val")
    joint, number, images = seed.joint, seed.number, seed.images
    if name.endswith(QUARTER):
        return replace(read_of(seed, budget, name.removesuffix(QUARTER), reach=reach), alpha=0.25)
    if name in MEASURES:
        return Read(indicators=read_by(indicators, name), alpha=MEASURES[name].alpha)
    if name == "pairs":
        pairs = partial(pair_terms, indicators, joint, split, images=images // 2, bits=PAIR_BITS, seed=number)
        return Read(indicators=read_by(indicators, "kl"), terms=seed.once(name, pairs))
    if name.startswith("moves"):
        point, model = point_of(indicators, budget), seed.subject.model.eval()
        leaving = partial(moves, indicators, joint, model, split, point, images=images, seed=number)
        curves = seed.once(f"moves {budget}", leaving)
        if not reach:
            return Read(indicators=with_curves(indicators, curves))
        return Read(indicators=around(indicators, curves, point, int(name.split()[1])))
    if name == "kl of float":
        point = (indicators.bits[-1], indicators.bits[-1])
        leaving = partial(moves, indicators, joint, None, split, point, images=images, seed=number)
        return Read(indicators=with_curves(indicators, seed.once(name, leaving)))
    if name in ("norm", "energy"):
        return Read(indicators=with_curves(indicators, of_scales(indicators, {"norm": 1, "energy": 2}[name])))
    assert name.startswith("channels"), name
    channels = partial(of_channels, indicators, joint, split, images=images, seed=number)
    return Read(indicators=with_curves(indicators, seed.once("channels", channels)[name.split()[1]]))


def policy_of(seed: Seed, budget: str, name: str) -> Pairs:
    """The variant's policy within the budget, proved optimal."""
    read, limit = read_of(seed, budget, name), budget_of(seed.indicators, budget)
    if name == "pairs":
        return solve_with_pairs(read.indicators, read.terms, limit)
    policy = PolicySearch()(read.indicators, (limit,), alpha=read.alpha, outliers="repair")
    assert policy.solver is not None
    assert policy.solver.status == "optimal", f"{name} at {budget}: not proved"
    return policy.pairs()


def worth(read: Read, pairs: Pairs) -> float:
    """The objective of any policy under a variant."""
    importance = treat_outliers(read.indicators, "repair")
    own = objective_of(read.indicators, importance, pairs, read.alpha, "the policy")
    return fsum((own, *terms_taken(read.indicators, read.terms, pairs)))


def point_of(indicators: Indicators, budget: str) -> tuple[int, int]:
    """The uniform policy of the budget: ``w3a3``, or ``weights3`` with activations at the widest candidate."""
    if budget.startswith(WEIGHTS):
        return int(budget.removeprefix(WEIGHTS)), indicators.bits[-1]
    return parse_like(budget)
