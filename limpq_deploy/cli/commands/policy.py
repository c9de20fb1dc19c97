"""Commands around the search: fronts, differences, tables, the authors' indicators. Thin; heavy imports inside."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import limpq_deploy
from limpq_deploy.cli.options.choice import OneOf
from limpq_deploy.cli.options.idle import refuse_idle
from limpq_deploy.cli.options.shared import (
    ACROSS,
    FILE,
    MEASURES,
    NEW_FILE,
    SOLVERS,
    budget_options,
    json_option,
    trust_option,
)
from limpq_deploy.cli.output.answers import answer


@click.command(short_help="The best policies for many budgets.")
@click.argument("indicators_file", metavar="INDICATORS.json", type=FILE)
@click.option("--gbitops", metavar="LO:HI:N", help="N budgets from LO to HI G BitOps of all layers; 1 G = 1e9.")
@click.option(
    "--all", "supported", is_flag=True, help="Instead of N budgets: every policy that is best at some price of a BitOp."
)
@click.option(
    "--gap",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Accept policies proved to be within this share of the best.",
)
@click.option("--solver", type=OneOf(SOLVERS), help="Who finds each policy, as in search.  [default: auto]")
@click.option("-o", "--output", type=NEW_FILE, metavar="FILE", help="[default: front.json]")
@click.option(
    "--picture",
    type=FILE,
    metavar="FILE",
    help="Draw the front, as .svg or .png, with the best policy within the BitOps of each uniform one besides.",
)
@click.option(
    "--x",
    "across",
    type=click.Choice(ACROSS),
    default="bitops",
    show_default=True,
    help="Of the picture: cost across; upwards stands the previewed accuracy, or else the importance.",
)
@click.option(
    "--preview",
    "build",
    type=FILE,
    metavar="DIR",
    help="Add each policy's accuracy on this build's joint network, without fine-tuning (needs torch).",
)
@trust_option
@budget_options
@json_option
def sweep(
    indicators_file: Path,
    gbitops: str | None,
    supported: bool,
    gap: float,
    solver: Any,
    output: Path | None,
    picture: Path | None,
    across: str,
    build: Path | None,
    trusted: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """The best policy for each of N BitOps budgets, with its proven bound, and which budgets cannot be met.

    Size budgets hold for every policy. With --all: the policies on the lower convex hull of BitOps and objective, so
    that no budgets have to be given.

    \b
    limpq-deploy sweep indicators.json --gbitops 20:120:50
    limpq-deploy sweep indicators.json --gbitops 20:120:50 --max-mib 8 --picture front.svg
    limpq-deploy sweep indicators.json --all
    limpq-deploy sweep DIR/indicators.json --gbitops 0.02:0.1:9 --preview DIR --picture front.png --x size
    """
    from limpq_deploy.calibration.errors import SettingError
    from limpq_deploy.calibration.records import load_record, to_dict, write_record
    from limpq_deploy.policy.indicators import Indicators

    if supported and gbitops is not None:
        raise SettingError("--all gives the points of every BitOps budget and no other; leave --gbitops and sizes away")
    if gbitops is None and not supported:
        raise SettingError("no budgets were given; use --gbitops LO:HI:N, or --all for every supported point")
    if picture is None:
        refuse_idle(("across",), "without --picture, whose axis it names")
    indicators = load_record(Indicators, indicators_file)
    drawn, times = None, options["latency_table"]
    if picture is not None:
        from limpq_deploy.api.front_file import axis_of, draw_front

        if across == "latency" and options["max_latency_ms"] is None:
            options["latency_table"] = None  # it is for the picture alone
        drawn = axis_of(indicators, across, times, **options)
    front = limpq_deploy.sweep(indicators, gbitops, gap=gap, solver=solver, preview=build, trusted=trusted, **options)
    file = output or Path("front.json")
    write_record(front, file)
    if picture is not None:
        draw_front(
            front,
            picture,
            indicators,
            gbitops=gbitops,
            axis=drawn,
            gap=gap,
            solver=solver,
            preview=build,
            trusted=trusted,
            **options,
        )
    if as_json:
        answer(json.dumps(to_dict(front)))
        return
    from limpq_deploy.cli.output.search import front_table

    where = f"\ndrawn in {picture}" if picture is not None else ""
    answer(f"{front_table(front)}\nwritten to {file}{where}")


@click.command(short_help="Compare two policies, layer by layer.")
@click.argument("first", metavar="POLICY", type=FILE)
@click.argument("second", metavar="POLICY", type=FILE)
@click.option(
    "--indicators", "indicators_file", type=FILE, metavar="FILE", help="Also compare BitOps, sizes and objectives."
)
@click.option(
    "--importance",
    type=OneOf(MEASURES),
    help="Measure of the objective.  [default: the policies' own, else as search]",
)
@click.option(
    "--alpha",
    type=float,
    metavar="A",
    help="Factor of weight indicators.  [default: the policies' own, else as search]",
)
@json_option
def diff(
    first: Path,
    second: Path,
    indicators_file: Path | None,
    importance: str | None,
    alpha: float | None,
    as_json: bool,
) -> None:
    """Layers whose bits differ between two policies, and how the totals change.

    \b
    limpq-deploy diff policy-a.json policy-b.json --indicators indicators.json
    """
    from limpq_deploy.calibration.records import load_record, to_dict
    from limpq_deploy.cli.output.search import diff_table
    from limpq_deploy.policy.diff import diff_policies
    from limpq_deploy.policy.indicators import Indicators
    from limpq_deploy.policy.policy import Policy

    if indicators_file is None:
        refuse_idle(("importance", "alpha"), "without --indicators, which objectives are counted from")
    policies = load_record(Policy, first), load_record(Policy, second)
    indicators = load_record(Indicators, indicators_file) if indicators_file else None
    found = diff_policies(
        *policies,
        indicators=indicators,
        importance=importance,
        alpha=alpha,
        names=(str(first), str(second)),
    )
    answer(json.dumps(to_dict(found)) if as_json else diff_table(found))


@click.command(short_help="Convert a policy to a table, or a table to a policy.")
@click.argument("source", metavar="FILE", type=FILE)
@click.option(
    "--indicators",
    "indicators_file",
    type=FILE,
    metavar="FILE",
    help="Where layers and costs are read; a policy alone is shown without.",
)
@click.option("-o", "--output", type=NEW_FILE, metavar="FILE", help="Table (.csv, .json) or policy (.json) to write.")
@click.option("--importance", type=OneOf(MEASURES), help="Measure of the objective.  [default: as search]")
@click.option("--alpha", type=float, metavar="A", help="Factor of weight indicators.  [default: as search]")
@json_option
def table(
    source: Path,
    indicators_file: Path | None,
    output: Path | None,
    importance: str | None,
    alpha: float | None,
    as_json: bool,
) -> None:
    """Show a policy as one row per layer (name, weight and activation bits, costs), or read such a table back.

    A table is checked against the indicators: every searched layer once; its costs are counted again. Bits need not be
    candidates; where no importance was learned, an extrapolated one is taken, and the output says so.

    \b
    limpq-deploy table policy.json
    limpq-deploy table policy.json --indicators indicators.json -o policy.csv
    limpq-deploy table policy.csv --indicators indicators.json -o policy.json
    """
    from limpq_deploy.calibration.records import load_record, to_dict, write_record
    from limpq_deploy.cli.output.search import layer_table_lines
    from limpq_deploy.cli.output.tables import policy_table, recipe_line
    from limpq_deploy.policy.indicators import Indicators
    from limpq_deploy.policy.interchange.layer_table import (
        layer_table,
        load_layer_table,
        policy_from_table,
        write_layer_table,
    )
    from limpq_deploy.policy.policy import Policy
    from limpq_deploy.policy.recipes import read_as

    indicators = load_record(Indicators, indicators_file) if indicators_file is not None else None
    written: Any
    if source.suffix.lower() == ".csv" or _format_of(source) != "limpq.policy/1":
        if indicators is None:
            raise click.UsageError("a table is checked against the layers of a network; give --indicators FILE")
        read, recipe = read_as(indicators, importance=importance, alpha=alpha)
        written = policy_from_table(load_layer_table(source), read, alpha=recipe.alpha, origin=str(source))
        written = replace(written, importance=recipe.importance)
        if output is not None:
            write_record(written, output)
        said = [policy_table(written, indicators)]
    else:
        refuse_idle(("importance", "alpha"), f"on the policy {source}, whose objective is not counted again")
        policy = load_record(Policy, source)
        written = layer_table(policy, indicators)
        if output is not None:
            write_layer_table(written, output)
        said = [layer_table_lines(written), recipe_line(policy)]
    where = [f"written to {output}"] if output is not None else []
    answer(json.dumps(to_dict(written)) if as_json else "\n".join([*said, *where]))


@click.command(name="import", short_help="Convert the LIMPQ authors' indicators to indicators.json.")
@click.argument("pickle_file", metavar="INDICATORS.pkl", type=FILE)
@click.option("--shapes", type=FILE, metavar="FILE", help="MACs and weight counts: limpq.shapes/1 or indicators.json.")
@click.option("-o", "--output", type=NEW_FILE, metavar="FILE", help="[default: indicators.json]")
@json_option
def import_(pickle_file: Path, shapes: Path | None, output: Path | None, as_json: bool) -> None:
    """Read the pickle that the authors' code writes; only dicts, lists, strings and numbers are admitted, and no code
    runs.

    It holds learned scales but neither MACs nor weight counts; --shapes gives them.
    """
    from limpq_deploy.calibration.records import to_dict, write_record
    from limpq_deploy.policy.interchange.authors_pickle import read_authors_pickle
    from limpq_deploy.policy.interchange.layer_sizes import load_shapes

    found = read_authors_pickle(pickle_file, load_shapes(shapes) if shapes else None)
    file = output or Path("indicators.json")
    write_record(found, file)
    if as_json:
        answer(json.dumps(to_dict(found)))
        return
    answer(f"{len(found.layers)} layers, bits {', '.join(map(str, found.bits))}\nwritten to {file}")


def add_policy_commands(group: click.Group) -> None:
    """Add the commands of this file to a group."""
    for command in (sweep, diff, table, import_):
        group.add_command(command)


def _format_of(file: Path) -> str | None:
    """The ``format`` of a JSON file; None where it has none. Raises RecordError where it is no JSON."""
    from limpq_deploy.calibration.json_text import load_json

    found = load_json(file, "a limpq.policy/1 or limpq.layer-table/1 file")
    return found.get("format") if isinstance(found, dict) else None
