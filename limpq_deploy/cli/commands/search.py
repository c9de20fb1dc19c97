"""The commands that choose a policy: search, and preview. Thin; heavy imports inside."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import limpq_deploy
from limpq_deploy.cli.options.choice import OneOf
from limpq_deploy.cli.options.shared import (
    FILE,
    NEW_FILE,
    SOLVERS,
    budget_options,
    json_option,
    trust_option,
)
from limpq_deploy.cli.options.threads import threads_option
from limpq_deploy.cli.output.answers import answer, aside
from limpq_deploy.policy.budgets import MINIMISED


@click.command(short_help="The best policy within budgets, from an indicators file.")
@click.argument("indicators_file", metavar="INDICATORS.json", type=FILE)
@budget_options
@click.option(
    "--solver",
    type=OneOf(SOLVERS),
    default="auto",
    show_default=True,
    help="Who finds the policy; it is proved by our own search, or by a library.",
)
@click.option(
    "--explain", is_flag=True, help="Say what one more bit would gain, which limits are reached, or why no policy fits."
)
@click.option(
    "--preview",
    "build",
    type=FILE,
    metavar="DIR",
    help="Of the policies of all importance measures and the uniform one, take the most accurate on this build's "
    "jointly trained network (needs torch).",
)
@click.option(
    "--minimise",
    type=OneOf(list(MINIMISED)),
    help="Have as little of this as possible, within the budgets; of such policies the least importance. Costs of a "
    "compiler or a profile need their table.",
)
@click.option(
    "--no-worse-than",
    metavar="wNaM|FORMAT",
    help="With --minimise: no more importance than these uniform bits have, such as w8a8 or fp8.",
)
@trust_option
@click.option("-o", "--output", type=NEW_FILE, metavar="FILE", help="[default: policy.json]")
@json_option
def search(
    indicators_file: Path,
    solver: Any,
    explain: bool,
    build: Path | None,
    minimise: str | None,
    no_worse_than: str | None,
    trusted: bool,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """The best policy within the budgets, with a proof (or how far it may be from the best), in milliseconds; needs
    neither torch nor a runtime.

    \b
    limpq-deploy search indicators.json --like w4a4
    limpq-deploy search indicators.json --max-gbitops 30 --max-mib 5
    limpq-deploy search indicators.json --like w4a4 --min-bits 'layer4.*=3' --pin fc1=w6a6
    limpq-deploy search limpq-build/indicators.json --like w3a3 --preview limpq-build
    limpq-deploy search indicators.json --cost-table costs.json --minimise moved-mib --no-worse-than int8
    """
    from limpq_deploy.api.policies import as_read, explain_refusal
    from limpq_deploy.api.policies import explain as explanation_of
    from limpq_deploy.calibration.errors import InfeasiblePolicy, SettingError
    from limpq_deploy.calibration.records import load_record, to_dict, write_record
    from limpq_deploy.policy.indicators import Indicators

    if explain and minimise is not None:
        raise SettingError("--explain prices the limits that were given, and --minimise finds its own; leave one away")
    indicators = load_record(Indicators, indicators_file)
    try:
        policy = limpq_deploy.search(
            indicators,
            solver=solver,
            preview=build,
            minimise=minimise,
            no_worse_than=no_worse_than,
            trusted=trusted,
            **options,
        )
    except InfeasiblePolicy:
        if explain:
            from limpq_deploy.cli.output.search import conflict_table

            conflict = explain_refusal(indicators, solver=solver, **options)
            aside(conflict_table(conflict) if conflict else "")
        raise
    file = output or Path("policy.json")
    write_record(policy, file)
    explanation = explanation_of(policy, indicators, solver=solver, **options) if explain else None
    if as_json:
        extra = {"explanation": to_dict(explanation)} if explanation is not None else {}
        answer(json.dumps({**to_dict(policy), **extra}))
        return
    from limpq_deploy.cli.output.tables import policy_table, tournament_table

    answer(f"{policy_table(policy, as_read(policy, indicators, **options))}\nwritten to {file}")
    if options.get("cost_table") is not None:
        from limpq_deploy.cli.output.predictions import said_of_policy
        from limpq_deploy.export.timing.cost_table import CostTable

        answer(said_of_policy(load_record(CostTable, options["cost_table"]), policy.pairs()))
    if policy.tournament is not None:
        answer(f"\n{tournament_table(policy.tournament)}")
    if explanation is not None:
        from limpq_deploy.cli.output.search import explanation_table

        answer(f"\n{explanation_table(explanation)}")


@click.command(short_help="Accuracy of a policy without fine-tuning it, in seconds.")
@click.argument("policies", metavar="POLICY.json...", nargs=-1, required=True, type=FILE)
@click.option(
    "--build",
    type=FILE,
    default=Path("limpq-build"),
    show_default=True,
    metavar="DIR",
    help="The build whose jointly trained network is used.",
)
@threads_option()
@trust_option
@json_option
def preview(policies: tuple[Path, ...], build: Path, trusted: bool, as_json: bool) -> None:
    """Accuracy of policies on a build's jointly trained network, with BatchNorm statistics estimated anew and no
    training. Measured on held-out training images, so that validation and test images stay unseen.

    \b
    limpq-deploy preview policy.json
    limpq-deploy preview a.json b.json --build limpq-build
    """
    from limpq_deploy.calibration.records import load_record, to_dict
    from limpq_deploy.policy.policy import Policy

    given = {str(file): load_record(Policy, file) for file in policies}
    seen: Any = limpq_deploy.preview(given, build, trusted=trusted)
    if as_json:
        plain = {name: to_dict(replace(found, losses=())) for name, found in seen.items()}
        answer(json.dumps({name: {**found, **_recipe(given[name])} for name, found in plain.items()}))
        return
    from limpq_deploy.cli.output.tables import preview_table

    answer(preview_table(seen, given))


def _recipe(policy: Any) -> dict[str, Any]:
    """By what a policy was found."""
    outliers = policy.outliers.mode if policy.outliers is not None else None
    return {"importance": policy.importance, "alpha": policy.alpha, "outliers": outliers}
