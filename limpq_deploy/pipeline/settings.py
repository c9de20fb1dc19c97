"""Every setting of a build, and what follows from some of them. No torch here."""

import json
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from limpq_deploy.export.records.engine_options import BatchRange, EngineOptions, given_options
from limpq_deploy.export.records.placement import FLOAT_BITS
from limpq_deploy.export.records.targets import DEFAULT, TargetSpec, in_float, target_named
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import split
from limpq_deploy.policy.budgets import BUDGETS, LIMITING, ROWS, BudgetSettings
from limpq_deploy.policy.budgets import option_of as plain_option
from limpq_deploy.policy.spaces import NATIVE, formats_named
from limpq_deploy.tasks.names import DEFAULT_TASK
from limpq_deploy.train.settings import AS_SUITS, Training

DEFAULT_LIKE = "w4a4"

BITS = (2, 3, 4, 5, 6)

ROUNDS = 4
"""Times that a latency limit is searched, timed and corrected, at most."""

TRAINING_OPTIONS = (
    *("joint_epochs", "data_fraction", "freeze_weights", "inplace_distill"),
    *("finetune_start", "finetune_epochs", "distill", "ema", "precision", "workers"),
)
"""Keys of ``[training]`` that are options of ``build`` too."""

FLAGS = {
    **{"engine": "--no-engine", "ptq": "--ptq", "finetune": "--no-finetune"},
    **{"tf32": "--no-tf32", "pretrained": "--pretrained"},
}
"""Options that say what is not the default by being there."""

ENGINE_SETTINGS = ("batch", "float_type", "tf32", "workspace_mib", "builder_level", "builds", "gpus")
"""Settings of the builder of engines."""

REPEATED = ("min_bits", "pin", "tie")
"""Options that are given once for every entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(BudgetSettings):
    """Settings of one build; each field is an option of ``limpq-deploy build`` and a key of its TOML file.

    ``weights_key``: which dictionary of the ``weights`` is meant, where several fit, such as ``model_ema``.
    ``pretrained``: a model of torchvision or timm takes its published weights, from this machine's caches.
    ``target`` None: the one that this machine can run. Budgets may be combined; with none, ``like`` is w4a4.
    ``max_latency_ms`` and ``min_speedup`` are checks of the verdict; without them latency is only reported. With a
    ``latency_table``, the search keeps ``max_latency_ms`` too; without one, and in a ``native:`` space, the build
    profiles this machine, searches, times and corrects (``latency_rounds`` times at most) until prediction and
    measurement agree. ``max_accuracy_drop``: points of top-1 (or of the task's own figure, in its unit) that the
    deployed model may lose against float. ``task``: what the network is for (`tasks.names.FORMS`). ``calibration``: a
    folder of images without labels, which take the place of the training and validation images.
    ``objective``: what the recommendation of a file to ship weighs (docs/recommendation.md).
    ``formats``: layers choose among these, each as a whole (`numbers.formats.FORMATS`), instead of among ``bits``; the
    default budget is then w8a8, which int8 and fp8 keep alike.
    ``max_float_share``: of all multiply-accumulates, what operators without an integer form may take; a network with
    more is refused before anything is trained.
    ``latency_seconds``: recorded calls of each model with each number of threads. ``space``, ``min_bits``, ``pin``,
    ``tie``: as in `restrictions.restrict`. ``act_bits``: the one width of what searched layers read, one of ``bits``;
    then weights alone are learned and searched (the paper's Table 5), and the default budget is w4aB. 32, "float" on
    the command line: activations are floats everywhere, and only weights are integers. ``solver``: who finds the
    policy, as in `search.search_policy`. ``importance`` None: the programs of all measures and the uniform policy
    compete by preview; ``alpha`` and ``outliers`` None: as suits the measure. ``policy``: a file whose policy is taken
    instead of a search; budgets are then checked where they are given. ``ptq``: nothing but a missing float model is
    trained; scales come from ``calibration_images`` (512) training images by the method ``ranges`` (None: mse, or
    entropy where that measures better). ``finetune`` False: policies' models are the jointly trained network at their
    bits, BatchNorm estimated anew, and int8 is calibrated as with ``ptq``; nothing else is trained. ``scales``: "pow2"
    makes all of them powers of two, so that every runtime gives the same integers. ``tensorrt``: version that files are
    written for (None: the installed one, else 8.6); ``batch``: images per call of its engine, MIN:OPT:MAX;
    ``float_type``, ``tf32``, ``workspace_mib``, ``builder_level``, ``builds``: as in `EngineOptions` (None: its
    defaults); ``gpus``: compute capabilities that one engine is for, such as "sm86,sm89".
    ``input``: "uint8" writes a file that takes pixels, and ships that. ``storage``: a second file with weights at their
    true bits, none below 4 (or 2).
    """

    model: str = "resnet8"
    weights: Path | None = None
    weights_key: str | None = None
    pretrained: bool = False
    data: str = "digits"
    task: str = DEFAULT_TASK
    calibration: Path | None = None
    classes: Path | None = None
    target: str | None = None
    bits: tuple[int, ...] = BITS
    formats: tuple[str, ...] = ()
    latency_rounds: int = ROUNDS
    min_speedup: float | None = None
    space: str | None = None
    min_bits: tuple[str, ...] = ()
    pin: tuple[str, ...] = ()
    tie: tuple[str, ...] = ()
    max_accuracy_drop: float = 1.0
    objective: Literal["accuracy", "size", "latency", "balanced"] = "balanced"
    max_float_share: float | None = None
    pinned_bits: int = 8
    act_bits: int | None = None
    importance: Literal["scale", "kl", "loss", "fisher"] | None = None
    alpha: float | None = None
    outliers: Literal["forbid", "repair", "keep"] | None = None
    solver: Literal["auto", "own", "cbc", "highs"] = "auto"
    policy: Path | None = None
    ptq: bool = False
    finetune: bool = True
    ranges: Literal["mse", "minmax", "percentile", "entropy"] | None = None
    calibration_images: int | None = None
    scales: Literal["free", "pow2"] = "free"
    tensorrt: str | None = None
    batch: str | None = None
    float_type: Literal["float16", "float32"] | None = None
    tf32: bool = True
    workspace_mib: int | None = None
    builder_level: int | None = None
    builds: int | None = None
    gpus: str | None = None
    storage: Literal["int4", "int2"] | None = None
    input: Literal["float", "uint8"] = "float"
    engine: bool = True
    latency_seconds: float = 1.0
    seed: int = 0
    out: Path = Path("limpq-build")
    training: Training = AS_SUITS

    def is_default(self, name: str) -> bool:
        """Whether a setting is what it is where nothing is asked for."""
        return bool(getattr(self, name) == next(field.default for field in fields(self) if field.name == name))

    def command_line(self) -> str:
        """The command that asks for this build: every setting that is not the default.

        Settings of ``[training]`` that have no option are named in a comment.
        """
        words = ["limpq-deploy", "build"]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "training" or value == field.default:
                continue
            option = option_of(field.name)
            if field.name in FLAGS:
                words.append(option)
            elif field.name in REPEATED:
                words += [word for one in value for word in (option, shlex.quote(one))]
            else:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words += [option, shlex.quote(text)]
        given = self.training.given()
        for name in TRAINING_OPTIONS:
            if name in given:
                flag = f"--{name.replace('_', '-')}"
                words += [flag] * given[name] if isinstance(given[name], bool) else [flag, str(given[name])]
        training = [f"{key} = {toml(value)}" for key, value in given.items() if key not in TRAINING_OPTIONS]
        return " ".join(words) + (f"  # [training] {', '.join(training)}" if training else "")

    @property
    def target_spec(self) -> TargetSpec:
        """The target, or the one of a build that names none."""
        return DEFAULT if self.target is None else target_named(self.target)

    @property
    def candidates(self) -> tuple[int, ...]:
        """Widths that layers are quantized at, ascending: ``bits``, or those of ``formats`` that are no floats."""
        if not self.formats:
            return self.bits
        return tuple(width for width in formats_named(self.formats) if not in_float(width))

    def formats_at(self, width: int) -> str:
        """The format of ``formats`` that has this width."""
        return next(name for name in self.formats if formats_named((name,)) == (width,))

    @property
    def limited(self) -> bool:
        """Whether any budget is given."""
        return any(getattr(self, name) is not None for name in LIMITING)

    @property
    def asked_budgets(self) -> dict[str, Any]:
        """What `budgets_from_options` takes; what the build measures itself is left to it."""
        asked = {name: getattr(self, name) for name in ROWS} | {"like": self.budget_like}
        own = [name for name, row in BUDGETS.items() if row.measured and asked.get(row.source or "") is None]
        return {**asked, **dict.fromkeys(own)}

    @property
    def goes_round(self) -> bool:
        """Whether the build times this machine and searches until its latency limit holds: a limit without a table, in
        a space where latency varies."""
        native = self.space is not None and self.space.startswith(NATIVE)
        searches = self.policy is None and self.latency_table is None
        runs = self.engine and self.target_spec.exportable
        return self.max_latency_ms is not None and native and searches and runs

    @property
    def budget_like(self) -> str | None:
        """``like``, or the default where no budget at all is given and a policy is searched."""
        if self.limited or self.policy is not None or self.goes_round:
            return self.like
        if self.formats:
            return "w8a8"
        return DEFAULT_LIKE if self.act_width is None else f"w4a{self.act_width}"

    @property
    def batch_range(self) -> BatchRange | None:
        """Images per call that the engine is for; None: nothing is said about it."""
        return None if self.batch is None else BatchRange.parse(self.batch)

    @property
    def engine_options(self) -> EngineOptions | None:
        """How the engine is to be built; None where nothing is said about it."""
        return given_options(
            batch=self.batch_range,
            float_type=self.float_type,
            tf32=None if self.tf32 else False,
            workspace_mib=self.workspace_mib,
            level=self.builder_level,
            builds=self.builds,
            gpus=None if self.gpus is None else split(self.gpus),
        )

    @property
    def act_width(self) -> int | None:
        """Bits of what searched layers read where weights alone are searched: ``act_bits``, for floats those of the
        narrowest float type of the target."""
        return min(self.target_spec.float_widths) if self.act_bits == FLOAT_BITS else self.act_bits


def option_of(name: str) -> str:
    """The option of ``build`` that sets a field."""
    return FLAGS.get(name) or plain_option(name)


def toml(value: Any) -> str:
    """A plain value as TOML writes it."""
    return str(value).lower() if isinstance(value, bool) else json.dumps(value)
