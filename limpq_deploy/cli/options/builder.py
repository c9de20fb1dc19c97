"""Options of commands that build TensorRT engines."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.cli.options.choice import OneOf

if TYPE_CHECKING:
    from limpq_deploy.export.records.engine_options import EngineOptions

Command = Callable[..., Any]

BUILDER_FIELDS = {
    **{name: name for name in ("float_type", "tf32", "workspace_mib", "builds")},
    "builder_level": "level",
    "engine_batch": "batch",
}
"""Options of a command that times engines, and the fields of `EngineOptions` that they set."""


def builder_options(command: Command) -> Command:
    """How TensorRT builds engines; see `take_builder`."""
    options = (
        click.option(
            "--float-type",
            type=OneOf(["float16", "float32"]),
            help="Float type that a TensorRT engine may use for layers without integers, where the file does not say.  "
            "[default: float16]",
        ),
        click.option(
            "--no-tf32",
            "tf32",
            flag_value=False,
            default=None,
            help="Keep all 24 bits in TensorRT's float32 products; by default it may drop 13 of them (TF32).",
        ),
        click.option(
            "--workspace-mib",
            type=int,
            metavar="M",
            help="GPU memory that TensorRT's builder may take, in MiB.  [default: all]",
        ),
        click.option(
            "--builder-level",
            type=int,
            metavar="L",
            help="Effort of TensorRT's builder: 0 builds fastest, 5 tries most.  [default: 3]",
        ),
        click.option(
            "--builds",
            type=int,
            metavar="N",
            help="Build so many TensorRT engines of each file, keep the fastest and record the spread.  [default: 1]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def engine_batch_option(command: Command) -> Command:
    """For commands whose ``--batch`` is what they time."""
    return click.option(
        "--engine-batch",
        metavar="MIN:OPT:MAX",
        help="Fewest, usual and most images per call of a TensorRT engine; build has it as --batch.  [default: 1:1:64]",
    )(command)


def take_builder(options: dict[str, Any]) -> "EngineOptions | None":
    """Move what `builder_options` and `engine_batch_option` add out of a command's options; None where none was given.

    Raises SettingError for values that make no sense.
    """
    from limpq_deploy.export.records.engine_options import BatchRange, given_options

    given = {field: options.pop(name) for name, field in BUILDER_FIELDS.items()}
    if given["batch"] is not None:
        try:
            given["batch"] = BatchRange.parse(given["batch"])
        except SettingError as error:
            raise SettingError(f"--engine-batch: {error}") from error
    return given_options(**given)
