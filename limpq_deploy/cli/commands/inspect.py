"""`inspect`: what would become of a network, before anything is trained."""

import json
import sys
from pathlib import Path

import click

import limpq_deploy
from limpq_deploy.cli.options.choice import OneOf
from limpq_deploy.cli.options.shared import FILE, json_option
from limpq_deploy.cli.output.answers import answer
from limpq_deploy.export.records.targets import DEFAULT, TARGETS

REFUSED = 1


class _Shape(click.ParamType):
    """``3,224,224`` -> (3, 224, 224)."""

    name = "shape"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        sizes = value.split(",")
        if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
            self.fail(f"{value!r} is no shape of an image; expected C,H,W, such as 3,224,224", param, ctx)
        return tuple(int(size) for size in sizes)


@click.command(short_help="What would become of a network: layers, integers, costs.")
@click.argument("model", metavar="MODEL")
@click.option("--target", type=OneOf(tuple(TARGETS)), default=DEFAULT.name, show_default=True, help="What runs it.")
@click.option("--weights", type=FILE, metavar="FILE", help="Whether these fit, too.")
@click.option(
    "--input-shape", type=_Shape(), metavar="C,H,W", help="Of an image.  [default: as the model's name or module says]"
)
@json_option
def inspect(model: str, target: str, weights: Path | None, input_shape: tuple[int, ...] | None, as_json: bool) -> None:
    """Look at a network without data and without training, in seconds: what runs in integers, what in float and why,
    what budgets would mean, how long training would take; or everything that stops it.

    MODEL as in `build --model`: resnet20, torchvision/NAME, timm/NAME or package.module:factory.

    Exit code 1: the network is refused.

    \b
    limpq-deploy inspect torchvision/resnet18 --target tensorrt
    limpq-deploy inspect my_package.nets:detector --input-shape 3,640,640
    """
    from limpq_deploy.calibration.records import to_dict
    from limpq_deploy.optional_packages import require_modules
    from limpq_deploy.progress import progress

    require_modules(("torch",), "looking at a network")
    with progress("loading torch", brief=True):
        from limpq_deploy.cli.output.inspection import inspection_lines

        look = limpq_deploy.inspect
    found = look(model, target=target, weights=weights, input_shape=input_shape)
    answer(json.dumps(to_dict(found)) if as_json else inspection_lines(found))
    if not found.accepted:
        sys.exit(REFUSED)
