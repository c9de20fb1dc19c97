"""Options that several commands share."""

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from limpq_deploy.cli.options.builder import Command, builder_options
from limpq_deploy.cli.options.choice import OneOf
from limpq_deploy.cli.options.threads import threads_option
from limpq_deploy.export.records.targets import TARGETS, TENSORRT
from limpq_deploy.model.names import FORMS
from limpq_deploy.policy.budgets import ROWS, TYPES, option_of
from limpq_deploy.tasks.names import DEFAULT_TASK
from limpq_deploy.tasks.names import FORMS as TASK_FORMS


class _Given(click.Path):
    """A path to read; a file that lies in a finished build is held against the build's record of it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.is_file():
            from limpq_deploy.workspace.finished import checked

            checked(path)
        return path


FILE = _Given(path_type=Path)
CLICK_TYPES: dict[type, click.ParamType] = {Path: FILE}
NEW_FILE = click.Path(path_type=Path, dir_okay=False)
"""One to write: a folder of that name is told before anything is done."""

MEASURES = ("scale", "kl", "loss", "fisher")
ACROSS = ("bitops", "size", "bytes", "latency")
RANGES = ("mse", "minmax", "percentile", "entropy")
SCALES = ("free", "pow2")
SOLVERS = ("auto", "own", "cbc", "highs")

DATA_HELP = "digits, imagefolder:PATH, images:PATH, masks:PATH, coco:PATH, cifar10:PATH or module:factory."


class BitsOrFloat(click.ParamType):
    """A number of bits, or ``float`` for 32."""

    name = "bits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if str(value).isdigit() or value == "float":
            return 32 if value == "float" else int(value)
        self.fail(f"{value!r} is no number of bits; expected one of --bits, or float", param, ctx)


class BitList(click.ParamType):
    """``2,3,4`` -> (2, 3, 4); ``2..4`` is the same."""

    name = "bits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        bits: list[int] = []
        for part in str(value).split(","):
            ends = re.fullmatch(r"\s*(\d{1,2})(?:\.\.(\d{1,2}))?\s*", part, re.ASCII)
            widths = range(0) if ends is None else range(int(ends[1]), int(ends[2] or ends[1]) + 1)
            if not widths:
                said = str(value) if len(str(value)) <= 40 else f"{str(value)[:40]}..."
                self.fail(f"{said!r} is no list of bit-widths; expected something like 2,3,4,5,6 or 2..6", param, ctx)
            bits += widths
        return tuple(bits)


class NameList(click.ParamType):
    """``int8,fp8`` -> ("int8", "fp8")."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(part.strip() for part in str(value).split(","))


class IntList(click.ParamType):
    """``1,8`` -> (1, 8); numbers above 0, and at most ``most``."""

    name = "numbers"

    def __init__(self, most: int | None = None) -> None:
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is no list of numbers above 0; expected something like 1,8", param, ctx)
        found = tuple(int(part) for part in parts)
        if self._most is not None and max(found) > self._most:
            self.fail(f"{max(found)} is more than {self._most}", param, ctx)
        return found


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, all else on stderr.")(
        command
    )


def trust_option(command: Command) -> Command:
    return click.option(
        "--trust",
        "trusted",
        is_flag=True,
        help="Import the modules that the build's settings name, though you never named them yourself; remembered.",
    )(command)


def several(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...] | None:
    """None where a repeatable option was not given, as for other options."""
    return value or None


def restriction_options(command: Command) -> Command:
    options = (
        click.option(
            "--space",
            metavar="SPACE",
            help="Bits to choose from: w*a8 (weights only), w8a* (activations only), native:TARGET.  [default: w*a*]",
        ),
        click.option(
            "--min-bits",
            multiple=True,
            callback=several,
            metavar="NAME=B",
            help="At least B bits in these layers (NAME.weight=B, NAME.act=B: there only). Names may be patterns; "
            "repeatable.",
        ),
        click.option(
            "--pin", multiple=True, callback=several, metavar="NAME=wNaM", help="Fixed bits, not searched; repeatable."
        ),
        click.option(
            "--tie",
            multiple=True,
            callback=several,
            metavar="NAME,..",
            help="These layers share weight and activation bits; repeatable.",
        ),
    )
    return with_options(options, command)


def budget_options(command: Command) -> Command:
    options = (
        *(
            click.option(option_of(name), type=CLICK_TYPES.get(kind, kind), metavar=row.metavar, help=row.help)
            for (name, row), kind in zip(ROWS.items(), TYPES.values(), strict=True)
        ),
        restriction_options,
        click.option(
            "--importance",
            type=OneOf(MEASURES),
            help="Measure of importance. [default: in a build, the one whose policy previews best; after one, the "
            "measure, alpha and outlier rule that it found; else kl where the indicators have it, else scale]",
        ),
        click.option(
            "--alpha", type=float, metavar="A", help="Factor of weight indicators.  [default: 2 for scale, else 1]"
        ),
        click.option(
            "--outliers",
            type=OneOf(["forbid", "repair", "keep"]),
            help="Where an indicator grows with the bits. forbid: no layer may take those bits; repair: take the "
            "closest values that do not grow; keep: take them as they are.  [default: forbid for scale, else repair]",
        ),
    )
    return with_options(options, command)


def seconds_option(default: float, least: float, help: str) -> Callable[[Command], Command]:
    """``--seconds`` of recorded calls."""
    return click.option(
        "--seconds", type=click.FloatRange(min=least), default=default, show_default=True, metavar="S", help=help
    )


def training_options(command: Command) -> Command:
    options = (
        click.option("--joint-epochs", type=float, metavar="E", help="Passes over the images for the indicators."),
        click.option(
            "--data-fraction",
            type=float,
            metavar="F",
            help="Share of the training images that the indicators see.  [default: 1.0]",
        ),
        click.option(
            "--freeze-weights", is_flag=True, default=None, help="For the indicators, learn scales and BatchNorm only."
        ),
        click.option(
            "--inplace-distill",
            is_flag=True,
            default=None,
            help="In joint training the highest bit-width teaches the others.",
        ),
        click.option(
            "--finetune-start",
            type=OneOf(["float", "joint"]),
            help="Fine-tune from the float weights, or from the jointly trained network.  [default: float]",
        ),
        click.option("--finetune-epochs", type=float, metavar="E", help="Passes over the images in fine-tuning."),
        click.option(
            "--distill",
            type=float,
            metavar="SHARE",
            help="Share of the loss from the float model's logits, joint training and fine-tuning; 0: labels alone.  "
            "[default: 1]",
        ),
        click.option(
            "--ema", type=float, metavar="D", help="Fine-tuned weights are a moving average of decay D, e.g. 0.999."
        ),
        click.option(
            "--precision",
            type=OneOf(["fp32", "bf16", "fp16"]),
            help="Number format of training.  [default: fp32]",
        ),
        click.option("--workers", type=int, metavar="N", help="Processes that read images ahead.  [default: 0]"),
        threads_option(),
    )
    return with_options(options, command)


def build_options(command: Command) -> Command:
    options = (
        click.option(
            "--config",
            type=FILE,
            metavar="FILE.toml",
            help="Settings under the names of the options; options given here win.",
        ),
        click.option(
            "--model",
            metavar="NAME",
            help=f"{FORMS}, a function of yours without arguments that returns the network.  [default: resnet8]",
        ),
        click.option(
            "--weights",
            type=FILE,
            metavar="FILE",
            help="Float weights: safetensors, or a state_dict of torch.save (.pth, .pt, ...).  [default: train them]",
        ),
        click.option(
            "--weights-key",
            metavar="KEY",
            help="Dictionary of the weights file to load, where several fit, e.g. model_ema.",
        ),
        click.option(
            "--pretrained",
            is_flag=True,
            flag_value=True,
            default=None,
            help="Published weights of torchvision/NAME or timm/NAME, from the caches of this machine.",
        ),
        click.option("--data", metavar="SPEC", help=f"{DATA_HELP}  [default: digits]"),
        click.option(
            "--task",
            metavar="NAME",
            help=f"What the network is for: {TASK_FORMS}.  [default: {DEFAULT_TASK}]",
        ),
        click.option(
            "--calibration",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="Folder of images without labels, in place of the data's training and validation images.",
        ),
        click.option("--classes", type=FILE, metavar="FILE.json", help="Folder names in the model's class order."),
        click.option(
            "--target",
            type=OneOf(tuple(TARGETS)),
            help="What executes the model.  [default: what this machine can run]",
        ),
        click.option("--bits", type=BitList(), metavar="2,3,..", help="Candidate bit-widths.  [default: 2,3,4,5,6]"),
        click.option(
            "--formats",
            type=NameList(),
            metavar="F,G,..",
            help="Choose each layer's number format instead: int8, fp8 (E4M3; tensorrt_rtx, from sm89), fp16.",
        ),
        budget_options,
        click.option(
            "--solver",
            type=OneOf(SOLVERS),
            help="Who finds the policy; it is proved by our own search, or by a library.  [default: auto]",
        ),
        click.option(
            "--latency-rounds",
            type=int,
            metavar="K",
            help="With --max-latency-ms and no table: search, time and correct at most K times.  [default: 4]",
        ),
        click.option(
            "--min-speedup",
            type=float,
            metavar="X",
            help="Check: at least X times as fast as the float model (in FP16 on TensorRT).",
        ),
        click.option(
            "--max-accuracy-drop",
            type=float,
            metavar="P",
            help="Check: top-1, or the task's own figure, at most P points (its unit) below the float model.  "
            "[default: 1.0]",
        ),
        click.option(
            "--objective",
            type=OneOf(["accuracy", "size", "latency", "balanced"]),
            help="What decides which of the built files to ship.  [default: balanced]",
        ),
        click.option(
            "--max-float-share",
            type=float,
            metavar="S",
            help="Refuse a network if more than this share (0 to 1) of its multiply-accumulates has no integer form "
            "and runs in float.",
        ),
        click.option(
            "--latency-seconds",
            type=float,
            metavar="S",
            help="Seconds of timing for each model and number of threads.  [default: 1.0]",
        ),
        click.option(
            "--act-bits",
            type=BitsOrFloat(),
            metavar="B",
            help="Search bits of weights only; activations of searched layers get B bits, one of --bits. float: all "
            "activations stay float, and only weights are integers.",
        ),
        click.option("--pinned-bits", type=int, metavar="B", help="Bits of the first and last layer.  [default: 8]"),
        training_options,
        click.option(
            "--policy",
            type=FILE,
            metavar="FILE.json",
            help="Use this policy of the model instead of searching for one.",
        ),
        click.option(
            "--ptq",
            is_flag=True,
            flag_value=True,
            default=None,
            help="Train nothing: ranges from images, then bias correction or BatchNorm estimated anew.",
        ),
        click.option(
            "--no-finetune",
            "finetune",
            flag_value=False,
            default=None,
            help="Ship the jointly trained network at the policy's bits, BatchNorm estimated anew; the same command "
            "without this option goes on from there.",
        ),
        click.option(
            "--ranges", type=OneOf(RANGES), help="How --ptq finds ranges.  [default: the better of mse and entropy]"
        ),
        click.option("--calibration-images", type=int, metavar="N", help="Training images for --ptq.  [default: 512]"),
        click.option(
            "--scales",
            type=OneOf(SCALES),
            help="Scales of what is deployed: any number, or powers of two, with which every runtime gives the same "
            "integers.  [default: free]",
        ),
        click.option(
            "--tensorrt",
            type=OneOf(TENSORRT.versions),
            help="Version that files for TensorRT are written for.  [default: the installed one, else 8.6]",
        ),
        click.option(
            "--batch",
            metavar="MIN:OPT:MAX",
            help="Fewest, usual and most images per call of a TensorRT engine, e.g. 1:8:32.",
        ),
        builder_options,
        click.option(
            "--gpus",
            metavar="sm86,sm89,..",
            help="Compute capabilities that an engine of TensorRT-RTX is for; sm75 alone.  [default: sm86,sm89,sm120]",
        ),
        click.option(
            "--input",
            type=OneOf(["float", "uint8"]),
            help="uint8: write a file that takes pixels and normalises them itself, and ship that.  [default: float]",
        ),
        click.option(
            "--storage",
            type=OneOf(["int4", "int2"]),
            help="Also write a file whose weights are packed to their bits (at least 4, or 2), to store and send.",
        ),
        click.option(
            "--no-engine",
            "engine",
            flag_value=False,
            default=None,
            help="Stop after export; for TensorRT go as far as a CPU can, to a bundle for `finish`.",
        ),
        click.option("--seed", type=int, metavar="N", help="Random seed of training and data order.  [default: 0]"),
        click.option("--out", type=FILE, metavar="DIR", help="Output folder.  [default: limpq-build]"),
        click.option("--fresh", is_flag=True, help="Do all stages again."),
        json_option,
    )
    return with_options(options, command)


def with_options(options: tuple[Any, ...], command: Command) -> Command:
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)
