"""Help of a command with many options: the ten that one begins with, and all of them in groups behind --help-all."""

import textwrap
from typing import Any

import click

START = "Start here"

GROUPS: dict[str, tuple[str, ...]] = {
    START: (*("model", "weights", "data", "target", "like", "compression_ratio", "ptq", "config", "out", "plan"),),
    "Model and data": ("pretrained", "weights_key", "task", "calibration", "classes", "max_float_share"),
    "Budgets": (
        *("max_gbitops", "max_mib", "max_avg_weight_bits", "max_avg_act_bits", "max_act_mib", "max_latency_ms"),
        *("max_moved_mib", "max_kernels", "latency_table", "cost_table", "latency_rounds", "bits", "act_bits"),
        *("formats", "pinned_bits", "space", "min_bits", "pin", "tie"),
        *("importance", "alpha", "outliers", "solver", "policy"),
    ),
    "Training": (
        *("joint_epochs", "data_fraction", "freeze_weights", "inplace_distill", "finetune", "finetune_start"),
        *("finetune_epochs", "distill", "ema", "precision", "workers", "threads", "seed"),
        *("ranges", "calibration_images", "scales"),
    ),
    "TensorRT": ("tensorrt", "batch", "float_type", "tf32", "workspace_mib", "builder_level", "builds", "gpus"),
    "Checks": ("max_accuracy_drop", "min_speedup", "objective", "latency_seconds"),
    "Files": ("storage", "input", "engine"),
}
"""Options of a build by the name of their setting; others come last."""

OTHERS = "Others"


class GroupedCommand(click.Command):
    """A command whose ``--help`` shows the first group and the names of the rest, its ``--help-all`` everything."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params.append(
            click.Option(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_all,
                help="Show every option, in groups, and exit.",
            )
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups = self.groups(ctx)
        with formatter.section(START):
            formatter.write_dl([*groups.pop(START, []), *groups.pop(OTHERS, [])])
        with formatter.section(f"More, with {ctx.command_path} --help-all"):
            for title, rows in groups.items():
                line = f"{title}: {', '.join(map(_first_name, rows))}"
                margin = " " * formatter.current_indent
                formatter.write(
                    textwrap.fill(
                        line,
                        formatter.width,
                        initial_indent=margin,
                        subsequent_indent=f"{margin}  ",
                        break_on_hyphens=False,
                    )
                    + "\n"
                )

    def full_help(self, ctx: click.Context) -> str:
        """The help of all options."""
        formatter = ctx.make_formatter()
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        for title, rows in self.groups(ctx).items():
            with formatter.section(title):
                formatter.write_dl(rows)
        return formatter.getvalue().rstrip("\n")

    def groups(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """(option, help) of every option by group, in the groups' order."""
        rows = {one.name: row for one in self.get_params(ctx) if (row := one.get_help_record(ctx)) is not None}
        grouped = {title: [rows.pop(name) for name in names if name in rows] for title, names in GROUPS.items()}
        return {title: some for title, some in (*grouped.items(), (OTHERS, list(rows.values()))) if some}


def _first_name(row: tuple[str, str]) -> str:
    return row[0].replace(",", "").split()[0]


def _show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        assert isinstance(ctx.command, GroupedCommand)
        click.echo(ctx.command.full_help(ctx), color=ctx.color)
        ctx.exit()
