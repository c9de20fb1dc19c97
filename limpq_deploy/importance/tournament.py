"""Which policy to fine-tune: those of every importance measure and the uniform one, judged by their previews."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from limpq_deploy.calibration.errors import InfeasiblePolicy
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.preview import Preview
from limpq_deploy.policy.candidates import Admit, Recipe, find, uniform_candidate
from limpq_deploy.policy.costs import Budget
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy, PolicyCandidate, Tournament
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.progress import Report, silent
from limpq_deploy.tasks.score import TOP1

Look = Callable[[dict[str, BitPair]], Preview]
"""What previews a policy."""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    recipe: Recipe | None
    policy: Policy


def hold_tournament(
    indicators: Indicators,
    budgets: Sequence[Budget],
    recipes: Sequence[Recipe],
    look: Look,
    *,
    uniform: BitPair | None,
    solve: PolicySearch | None = None,
    admit: Admit = lambda indicators: indicators,
    report: Report = silent,
) -> Policy:
    """The policy whose preview has the least loss; ``Policy.tournament`` records all, best first.

    Every recipe's certified policy competes, and ``uniform`` where there is one. A policy that several recipes find is
    previewed once. ``admit`` puts restrictions on indicators. Raises InfeasiblePolicy where no recipe finds a policy.
    """
    entries = _entries(indicators, budgets, recipes, uniform, solve or PolicySearch(), admit)
    seen: list[tuple[Preview, _Entry]] = []
    for number, entry in enumerate(entries):
        report(number, len(entries), entry.name)
        seen.append((look(entry.policy.pairs()), entry))
    seen.sort(key=lambda one: one[0].loss)
    best, winner = seen[0]
    return replace(
        winner.policy,
        tournament=Tournament(
            candidates=tuple(_candidate(preview, entry) for preview, entry in seen),
            chosen=winner.name,
            why=_why(seen),
            images=best.images,
            batchnorm_images=best.batchnorm_images,
            measure=best.measure.name if best.measure != TOP1 else None,
            unit=best.measure.unit if best.measure != TOP1 else None,
        ),
    )


def _entries(
    indicators: Indicators,
    budgets: Sequence[Budget],
    recipes: Sequence[Recipe],
    uniform: BitPair | None,
    solve: PolicySearch,
    admit: Admit,
) -> list[_Entry]:
    found: list[_Entry] = []
    problem: InfeasiblePolicy | None = None
    for recipe in recipes:
        try:
            found.append(_Entry(recipe.title, recipe, find(indicators, budgets, recipe, solve=solve, admit=admit)))
        except InfeasiblePolicy as error:
            problem = error
    if not found:
        assert problem is not None
        raise problem
    if uniform is not None:
        policy = uniform_candidate(uniform, indicators, budgets, found[0].policy, admit=admit)
        found.insert(0, _Entry(f"uniform w{uniform[0]}a{uniform[1]}", None, policy))
    distinct: dict[tuple[tuple[str, BitPair], ...], _Entry] = {}
    for entry in found:
        distinct.setdefault(tuple(entry.policy.pairs().items()), entry)
    return list(distinct.values())


def _candidate(preview: Preview, entry: _Entry) -> PolicyCandidate:
    recipe = entry.recipe
    return PolicyCandidate(
        name=entry.name,
        bits=entry.policy.bits,
        top1=preview.top1,
        loss=preview.loss,
        importance=recipe.importance if recipe is not None else None,
        alpha=recipe.alpha if recipe is not None else None,
        outliers=recipe.outliers if recipe is not None else None,
    )


def _why(seen: list[tuple[Preview, _Entry]]) -> str:
    best, winner = seen[0]
    text = f"{winner.name}: preview loss {best.loss:.4f}, the least of {len(seen)}"
    beside = next((preview for preview, entry in seen if entry.recipe is None), None)
    if winner.recipe is None:
        return f"{text}: no program's policy previewed better than uniform bits, so uniform bits it is"
    if beside is None:
        return f"{text}; no uniform policy keeps the budgets"
    figures = f"{best.measure.name} {best.top1:.2f} against {best.measure.shown(beside.top1)}"
    return f"{text}; uniform bits {beside.loss:.4f} ({figures})"
