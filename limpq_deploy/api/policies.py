"""From indicators to policies: search, sweep, preview. No torch, but where a build's joint network is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limpq_deploy.api.finished import Report, folder_of
from limpq_deploy.api.question import Question, Readable, question
from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.callbacks import Listener, listening
from limpq_deploy.policy.budgets import (
    BITOPS,
    of_kind,
    option_of,
    parse_like,
    uniform_policy_within,
)
from limpq_deploy.policy.candidates import find, find_own
from limpq_deploy.policy.costs import Budget
from limpq_deploy.policy.explain import Explanation
from limpq_deploy.policy.explain import explain as explanation_of
from limpq_deploy.policy.front import Front, parse_range
from limpq_deploy.policy.front import sweep as front_of
from limpq_deploy.policy.importance_names import read_by
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.infeasible import Conflict, explain_conflict
from limpq_deploy.policy.minimise import asked_to_minimise
from limpq_deploy.policy.minimise import minimise as least_cost
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.recipes import recipes, usual_recipe
from limpq_deploy.policy.search import TIME_LIMIT_S, PolicySearch
from limpq_deploy.policy.solver.deadline import Deadline
from limpq_deploy.policy.supported import supported_front
from limpq_deploy.progress import progress as reporting

if TYPE_CHECKING:
    from limpq_deploy.importance.preview import Preview


def search(
    indicators: Readable,
    *,
    like: str | None = None,
    max_gbitops: float | None = None,
    max_mib: float | None = None,
    compression_ratio: float | None = None,
    importance: str | None = None,
    alpha: float | None = None,
    outliers: str | None = None,
    solver: Any = "auto",
    preview: Report | str | Path | None = None,
    minimise: str | None = None,
    no_worse_than: str | None = None,
    trusted: bool = False,
    progress: Listener | None = None,
    **more: Any,
) -> Policy:
    """The policy of least total importance within the budgets, with its proof; milliseconds, and no torch.

    ``like``: the BitOps of this uniform policy over the searched layers; ``max_gbitops``: of all layers, 1 G = 1e9;
    ``max_mib``: all weights, 2^20 bytes; ``compression_ratio``: 32-bit size / quantized size. ``more``: the other
    budgets and restrictions of `limpq-deploy search`, by their options' names (``max_act_mib``, ``pin=("fc=w8a8",)``).
    ``importance``, ``alpha``, ``outliers``: how indicators are read; None: as the build that made them found best.
    ``preview``: a build on whose joint network the policies of all measures compete; this needs torch.
    ``minimise``: a cost to have as little of as possible, and of such policies the least important (`MINIMISED`;
    "moved-mib" with ``cost_table=``), ``no_worse_than``: with no more importance than these uniform bits.

    Raises InfeasiblePolicy with the smallest reachable figure, SettingError for a useless setting, RecordError for a
    damaged file. Source: Tang et al., Mixed-Precision Neural Network Quantization via Learned Layer-wise Importance,
    ECCV 2022 (https://arxiv.org/abs/2203.08368).

    Examples:
        >>> policy = limpq_deploy.search("indicators.json", like="w4a4", max_mib=12)
        >>> weight_bits, act_bits = policy.bits["layer1.0.conv2"]
        >>> policy.solver.status
        'optimal'
    """
    budgets = {**more, "like": like, "max_gbitops": max_gbitops, "max_mib": max_mib}
    budgets["compression_ratio"] = compression_ratio
    asked = question(indicators, {**budgets, "importance": importance, "alpha": alpha, "outliers": outliers})
    solve = PolicySearch(solver=solver)
    if no_worse_than is not None and minimise is None:
        raise SettingError("--no-worse-than has no effect without --minimise; give --minimise too")
    if preview is not None and minimise is not None:
        raise SettingError("--preview has no effect beside --minimise, of which there is one policy; leave one away")
    if minimise is not None:
        asked = replace(asked, budgets=asked_to_minimise(asked.budgets, minimise))
    limits = asked.limits
    with listening(progress):
        if minimise is not None:
            return least_cost(
                asked.read,
                limits,
                minimise,
                asked.recipe,
                no_worse_than=no_worse_than,
                solve=solve,
                deadline=Deadline.within(TIME_LIMIT_S),
            )
        if preview is not None:
            return _tournament(asked, limits, solve, folder_of(preview), trusted)
        plain = all(value is None for value in asked.asked.values())
        return (find_own if plain else find)(asked.carried, limits, asked.recipe, solve=solve, admit=asked.admit)


def as_read(policy: Policy, indicators: Readable, **same: Any) -> Indicators:
    """Indicators by a policy's own measure, under the restrictions of its search; ``same``: as in `search`."""
    asked = question(indicators, same)
    return asked.admit(read_by(asked.carried, policy.importance or asked.recipe.importance))


def explain(policy: Policy, indicators: Readable, *, solver: Any = "auto", **same: Any) -> Explanation:
    """What one more bit would gain a policy, layer by layer, and which limits it reaches; ``same``: as in `search`."""
    deadline, limits = Deadline.within(TIME_LIMIT_S), question(indicators, same).limits
    read = as_read(policy, indicators, **same)
    return explanation_of(policy, read, limits, solve=PolicySearch(solver=solver, deadline=deadline))


def explain_refusal(indicators: Readable, *, solver: Any = "auto", **same: Any) -> Conflict | None:
    """Which budgets exclude each other where `search` raised InfeasiblePolicy; ``same``: as there."""
    asked = question(indicators, same)
    deadline = Deadline.within(TIME_LIMIT_S)
    return explain_conflict(
        asked.read,
        asked.limits,
        alpha=asked.recipe.alpha,
        outliers=asked.recipe.outliers,
        solve=PolicySearch(solver=solver, deadline=deadline),
        deadline=deadline,
    )


def sweep(
    indicators: Readable,
    gbitops: str | Sequence[float] | None = None,
    *,
    gap: float = 0.0,
    solver: Any = None,
    preview: Report | str | Path | None = None,
    trusted: bool = False,
    progress: Listener | None = None,
    **more: Any,
) -> Front:
    """The best policy for each of many BitOps budgets, each with its proved bound.

    ``gbitops``: limits in G BitOps of all layers (1 G = 1e9), or ``"LO:HI:N"``; None: every policy that is best at some
    price of a BitOp. ``gap``: accept policies proved to be within this share of the best. ``more``: size budgets, which
    hold at every point, and restrictions, as in `search`. ``preview``: a build on whose joint network each policy's
    accuracy is measured (needs torch).

    Raises SettingError for budgets that make no sense together; a budget that nothing meets is listed in
    ``infeasible``.

    Examples:
        >>> front = limpq_deploy.sweep("indicators.json", "30:60:3")
        >>> [round(point.gbitops_limit) for point in front.points]
        [30, 45, 60]
    """
    swept = of_kind(BITOPS)
    if any(more.get(name) is not None for name in swept):
        raise SettingError(f"--gbitops already limits BitOps; leave {' and '.join(map(option_of, swept))} away")
    asked = question(indicators, more)
    limited = asked.limited
    if gbitops is None and limited:
        raise SettingError("--all gives the points of every BitOps budget and no other; leave --gbitops and sizes away")
    for name, given in (("solver", solver is not None), ("gap", gap > 0)):
        if gbitops is None and given:
            raise SettingError(
                f"--all reads its points off the layers' own hulls and asks no solver; leave {option_of(name)} away"
            )
    settings: dict[str, Any] = {**asked.asked, "admit": asked.admit}
    with listening(progress):
        if gbitops is None:
            front = supported_front(asked.carried, **settings)
        else:
            limits = parse_range(gbitops) if isinstance(gbitops, str) else tuple(map(float, gbitops))
            budgets = asked.limits if limited else ()
            solve = PolicySearch(solver=solver or "auto", gap=gap)
            with reporting("budgets") as report:
                front = front_of(asked.carried, limits, budgets=budgets, solve=solve, progress=report, **settings)
        if preview is not None:
            from limpq_deploy.pipeline.stages.previewer import open_previewer, with_previews

            with reporting("previews") as report:
                look = open_previewer(folder_of(preview), asked.carried, trusted=trusted, interval=True)
                front = with_previews(front, look, report)
    return front


def preview(
    policies: Policy | str | Path | Mapping[str, Policy],
    build: Report | str | Path,
    *,
    model: Any = None,
    data: Any = None,
    trusted: bool = False,
    progress: Listener | None = None,
) -> "Preview | dict[str, Preview]":
    """Accuracy of a policy on a build's jointly trained network: BatchNorm statistics estimated anew, no training.

    ``policies``: one, its file, or several by name; several give a dict. ``top1`` in percent and mean cross-entropy
    ``loss``, on held-out training images. ``model``, ``data``: the objects that the build was made of, where that was
    in another process. Raises RecordError for a folder without a joint network, ModelError for a policy of other
    layers or widths.

    Examples:
        >>> policy = limpq_deploy.load("limpq-build").policy
        >>> 0 <= limpq_deploy.preview(policy, "limpq-build").top1 <= 100
        True
    """
    several = dict(policies) if isinstance(policies, Mapping) else {"the policy": policies}
    read = {name: one if isinstance(one, Policy) else load_record(Policy, Path(one)) for name, one in several.items()}
    pairs = {name: policy.buildable_pairs(name) for name, policy in read.items()}
    require_torch("previews")
    from limpq_deploy.api.objects import give_again
    from limpq_deploy.pipeline.stages.previewer import open_previewer

    give_again(model, data)
    seen = {}
    with listening(progress), reporting("previews") as report:
        look = open_previewer(folder_of(build), trusted=trusted)
        for number, (name, bits) in enumerate(pairs.items()):
            report(number, len(pairs), name)
            seen[name] = look(bits, origin=name)
    return seen if isinstance(policies, Mapping) else seen["the policy"]


def require_torch(what: str) -> None:
    """Raise MissingExtra where torch is missing, in a sentence."""
    from limpq_deploy.optional_packages import require_modules

    require_modules(("torch", "safetensors"), what)


def _tournament(asked: Question, limits: Sequence[Budget], solve: PolicySearch, build: Path, trusted: bool) -> Policy:
    from limpq_deploy.importance.tournament import hold_tournament
    from limpq_deploy.pipeline.stages.previewer import open_previewer

    like = asked.budgets["like"]
    uniform = uniform_policy_within(asked.read, limits, parse_like(like) if like is not None else None)
    look = open_previewer(build, asked.carried, trusted=trusted)
    own = {name: asked.asked[name] for name in ("alpha", "outliers")}
    with reporting("previews") as report:
        return hold_tournament(
            asked.carried,
            limits,
            recipes(asked.carried, **asked.asked),
            look,
            uniform=uniform,
            usual=usual_recipe(asked.carried, **own) if look.trained else None,
            solve=solve,
            admit=asked.admit,
            report=report,
        )
