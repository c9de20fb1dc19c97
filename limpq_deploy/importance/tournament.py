"""Which policy to fine-tune: those of every importance measure and the uniform one, judged by their previews."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from limpq_deploy.calibration.errors import InfeasiblePolicy
from limpq_deploy.calibration.numbers.formats import pair_name
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.importance.preview import Preview
from limpq_deploy.importance.ties import behind, chosen
from limpq_deploy.policy.candidates import Admit, find, uniform_candidate
from limpq_deploy.policy.costs import Budget
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy, PolicyCandidate, Tournament
from limpq_deploy.policy.recipes import Recipe
from limpq_deploy.policy.search import PolicySearch
from limpq_deploy.progress import Report, counted, silent
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
    usual: Recipe | None = None,
    solve: PolicySearch | None = None,
    admit: Admit = lambda indicators: indicators,
    report: Report = silent,
) -> Policy:
    """The policy whose preview has the least loss, as far as the images tell; ``Policy.tournament`` records all, best
    first.

    Every recipe's certified policy competes, and ``uniform`` where there is one. Of those that the images do not tell
    from the best, that of the ``usual`` recipe is taken, else uniform bits, else the simplest policy (`ties.chosen`). A
    policy that several recipes find is previewed once, under the usual one's name where that finds it. ``admit`` puts
    restrictions on indicators. Raises InfeasiblePolicy where no recipe finds a policy.
    """
    ordered = sorted(recipes, key=lambda recipe: recipe != usual)
    entries = _entries(indicators, budgets, ordered, uniform, solve or PolicySearch(), admit)
    started, seen = time.perf_counter(), list[tuple[Preview, _Entry]]()
    for number, entry in enumerate(entries):
        report(number, len(entries), entry.name)
        seen.append((look(entry.policy.pairs()), entry))
    seen.sort(key=lambda one: one[0].loss)
    previews, policies = [preview for preview, _ in seen], [entry.policy for _, entry in seen]
    beside = next((place for place, (_, entry) in enumerate(seen) if entry.recipe is None), None)
    first = next((place for place, (_, entry) in enumerate(seen) if entry.recipe == usual is not None), None)
    place = chosen(previews, policies, usual=first, uniform=beside)
    programs = [entry.policy for _, entry in seen if entry.recipe is not None]
    if place == beside and programs:  # priced by the best program's measure
        assert uniform is not None
        policies[place] = uniform_candidate(uniform, indicators, budgets, programs[0], admit=admit)
    return replace(
        policies[place],
        tournament=Tournament(
            candidates=tuple(_candidate(preview, entry, previews[0]) for preview, entry in seen),
            chosen=seen[place][1].name,
            why=_why(seen, place, first, beside),
            images=previews[0].images,
            batchnorm_images=previews[0].batchnorm_images,
            seconds=round(time.perf_counter() - started, 3),
            measure=previews[0].measure.name if previews[0].measure != TOP1 else None,
            unit=previews[0].measure.unit if previews[0].measure != TOP1 else None,
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
    for recipe in counted(recipes, len(recipes), "programs solved"):
        try:
            found.append(_Entry(recipe.title, recipe, find(indicators, budgets, recipe, solve=solve, admit=admit)))
        except InfeasiblePolicy as error:
            problem = error
    if not found:
        assert problem is not None
        raise problem
    if uniform is not None:
        policy = uniform_candidate(uniform, indicators, budgets, found[0].policy, admit=admit)
        found.insert(0, _Entry(f"uniform {pair_name(uniform)}", None, policy))
    distinct: dict[tuple[tuple[str, BitPair], ...], _Entry] = {}
    for entry in found:
        distinct.setdefault(tuple(entry.policy.pairs().items()), entry)
    return list(distinct.values())


def _candidate(preview: Preview, entry: _Entry, best: Preview) -> PolicyCandidate:
    recipe, more = entry.recipe, behind(preview, best)
    return PolicyCandidate(
        name=entry.name,
        bits=entry.policy.bits,
        top1=preview.top1,
        loss=preview.loss,
        importance=recipe.importance if recipe is not None else None,
        alpha=recipe.alpha if recipe is not None else None,
        outliers=recipe.outliers if recipe is not None else None,
        behind=more.loss,
        behind_low=more.low,
        behind_high=more.high,
    )


def _why(seen: list[tuple[Preview, _Entry]], place: int, first: int | None, beside: int | None) -> str:
    best, (taken, winner) = seen[0][0], seen[place]
    more = behind(taken, best)
    text = f"{winner.name}: preview loss {taken.loss:.4f}, the least of {len(seen)}"
    if place != 0:
        text = (
            f"{winner.name}: preview loss {taken.loss:.4f}, a tie with the least of {len(seen)}, {best.loss:.4f} "
            f"({taken.images:,} images, 95 % {more.low:+.3f} to {more.high:+.3f})"
        )
    if winner.recipe is None:
        return f"{text}: no program's policy previewed better than uniform bits, so uniform bits it is"
    if place != 0:
        text += ", the usual measure's" if place == first else ", the simplest of these"
    if beside is None:
        return f"{text}; no uniform policy keeps the budgets"
    rival = seen[beside][0]
    figures = f"{taken.measure.name} {taken.top1:.2f} against {taken.measure.shown(rival.top1)}"
    return f"{text}; uniform bits {rival.loss:.4f} ({figures})"
