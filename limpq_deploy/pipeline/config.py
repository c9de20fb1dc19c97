"""What a build is asked to do: typed settings, from the command line over a TOML file over defaults. No torch here."""

import difflib
import json
import shlex
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from limpq_deploy.calibration.datasets import KINDS as DATA_AT_PATHS
from limpq_deploy.calibration.errors import RecordError, SettingError
from limpq_deploy.calibration.files import write_text
from limpq_deploy.calibration.json_text import load_json, read_whole
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.calibration.suggestions import did_you_mean
from limpq_deploy.calibration.trust import require_trusted, trust
from limpq_deploy.export.records.engine_options import LEVELS, BatchRange, EngineOptions, given_options
from limpq_deploy.export.records.placement import FLOAT_BITS
from limpq_deploy.export.records.targets import DEFAULT, TARGETS, TargetSpec, in_float, taking, target_named
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import capabilities_named, split
from limpq_deploy.export.runtimes.tensorrt_rtx.needs import without_fp8
from limpq_deploy.model.names import LIBRARIES
from limpq_deploy.policy.budgets import BUDGETS, COST_FILES, LIMITING, ROWS, TYPES, BudgetSettings
from limpq_deploy.policy.budgets import option_of as plain_option
from limpq_deploy.policy.spaces import formats_named
from limpq_deploy.tasks.names import DEFAULT_TASK, require_task
from limpq_deploy.train.settings import AS_SUITS, Training
from limpq_deploy.workspace.file_names import CONFIG

FORMAT = "limpq.config/1"

DEFAULT_LIKE = "w4a4"

BITS = (2, 3, 4, 5, 6)

NATIVE = "native:"
"""Begins the name of a search space of a target's own pairs."""

ROUNDS = 4
"""Times that a latency limit is searched, timed and corrected, at most."""

KINDS = {"tuple_type": "a list", "dataclass_type": "a section with keys of its own"}
"""What pydantic calls by a Python name."""

POSITIVE = (*(name for name, kind in TYPES.items() if kind in (int, float)), "min_speedup", "latency_seconds")

TRAINING_OPTIONS = (
    *("joint_epochs", "data_fraction", "freeze_weights", "inplace_distill"),
    *("finetune_start", "finetune_epochs", "distill", "ema", "precision", "workers"),
)
"""Keys of ``[training]`` that are options of ``build`` too."""

FLAGS = {"engine": "--no-engine", "ptq": "--ptq", "tf32": "--no-tf32", "pretrained": "--pretrained"}
"""Options that say what is not the default by being there."""

NEEDED = ("model", "weights", "ptq", "target")
"""Settings without which others have no effect; an option may give them to those of a file."""

VERSIONS = ("tensorrt",)
"""Settings that are versions, which TOML may take for numbers."""

ENGINE_SETTINGS = ("batch", "float_type", "tf32", "workspace_mib", "builder_level", "builds", "gpus")
"""Settings of the builder of engines."""

REPEATED = ("min_bits", "pin", "tie")
"""Options that are given once for every entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(BudgetSettings):
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
    trained; scales come from ``calibration_images`` (512) training images by the method ``ranges`` (mse). ``scales``:
    "pow2" makes all of them powers of two, so that every runtime gives the same integers. ``tensorrt``: version that
    files are written for (None: the installed one, else 8.6); ``batch``: images per call of its engine, MIN:OPT:MAX;
    ``float_type``, ``tf32``, ``workspace_mib``, ``builder_level``, ``builds``: as in `EngineOptions` (None: its
    defaults); ``gpus``: compute capabilities that one engine is for, such as "sm86,sm89".
    ``input``: "uint8" writes a file that takes pixels, and ships that. ``storage``: a second file with weights at their
    true bits, none below 4 (or 2).

    Raises ValueError that begins with the field's name.
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

    def __post_init__(self) -> None:
        if not self.bits or list(self.bits) != sorted(set(self.bits)) or not all(2 <= bits <= 8 for bits in self.bits):
            shown = ",".join(map(str, self.bits))
            raise ValueError(
                f"bits is {shown or 'empty'}; expected ascending bit-widths from 2 to 8, such as 2,3,4,5,6"
            )
        self._check_formats()
        if self.weights_key is not None and self.weights is None:
            raise ValueError(
                f"weights_key is {self.weights_key}, which has no effect without weights; give --weights too"
            )
        if self.pretrained and self.weights is not None:
            raise ValueError(f"pretrained asks for published weights, and weights is {self.weights}; leave one away")
        if self.pretrained and self.model.partition("/")[0] not in LIBRARIES:
            raise ValueError(
                f"pretrained has no meaning for the model {self.model}; expected torchvision/NAME or timm/NAME, or "
                "give --weights"
            )
        _require_one_of("target", self.target, TARGETS)
        require_task(self.task)
        target = self.target_spec
        native = (self.space or "").removeprefix(NATIVE)
        if self.space != native and native in TARGETS and native != target.name:
            raise ValueError(
                f"space is {self.space}, pairs of another target than {target.name}; give --space {NATIVE}{target.name}"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and target.name not in taking(field.name):
                said = "" if isinstance(value, bool) else f" is {value}, which"
                raise ValueError(f"{field.name}{said} has no effect without --target {' or '.join(taking(field.name))}")
        _require_one_of("tensorrt", self.tensorrt, target.versions)
        if not target.exportable:
            for name, value in (("storage", self.storage), ("input", self.input if self.input == "uint8" else None)):
                if value is not None:
                    raise ValueError(
                        f"{name} is {value}, and the target {target.name} is never exported; leave it away"
                    )
        if self.batch is not None:
            BatchRange.parse(self.batch)
        if self.gpus is not None:
            capabilities_named(split(self.gpus))
        for name in ("workspace_mib", "builds"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.builder_level is not None and self.builder_level not in LEVELS:
            raise ValueError(f"builder_level is {self.builder_level}; expected {LEVELS[0]} to {LEVELS[-1]}")
        if not 2 <= self.pinned_bits <= 8:
            raise ValueError(f"pinned_bits is {self.pinned_bits}; expected 2 to 8")
        if self.act_bits == FLOAT_BITS:
            for name, given in (("space", self.space), ("scales pow2", self.scales == "pow2" or None)):
                if given is not None:
                    raise ValueError(
                        f"act_bits is float, so that weights alone are integers, and {name} says otherwise; leave one "
                        "away"
                    )
        elif self.act_bits is not None and self.act_bits not in self.bits:
            shown = ",".join(map(str, sorted({*self.bits, self.act_bits})))
            hint = (
                f"which bits does not list; give --bits {shown}"
                if 2 <= self.act_bits <= 8
                else f"expected 2 to 8, or float ({FLOAT_BITS})"
            )
            raise ValueError(f"act_bits is {self.act_bits}, {hint}")
        for name in () if self.ptq else ("ranges", "calibration_images"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is {getattr(self, name)}, which has no effect without ptq; give --ptq too")
        if self.calibration_images is not None and self.calibration_images < 2:
            raise ValueError(f"calibration_images is {self.calibration_images}; expected at least 2")
        for name in ("importance", "alpha", "outliers", "solver") if self.policy is not None else ():
            if getattr(self, name) not in (None, "auto"):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, and nothing is searched where a policy is given; leave one away"
                )
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}; expected a number above 0")
        if self.latency_rounds < 1:
            raise ValueError(f"latency_rounds is {self.latency_rounds}; expected at least 1")
        if self.latency_rounds != ROUNDS and not self.goes_round:
            raise ValueError(
                f"latency_rounds is {self.latency_rounds}, which has no effect unless a latency limit is searched for: "
                "give --max-latency-ms alone or with --space native:TARGET, and no --latency-table"
            )
        if self.alpha is not None and not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha is {self.alpha}; expected 0 or above")
        if self.max_float_share is not None and not 0 <= self.max_float_share <= 1:
            raise ValueError(f"max_float_share is {self.max_float_share}; expected a share from 0 to 1, such as 0.2")
        if not isfinite(self.max_accuracy_drop):
            raise ValueError(
                f"max_accuracy_drop is {self.max_accuracy_drop}; expected points of the task's figure, such as 1.0"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; expected 0 or above, below 2^63")

    def _check_formats(self) -> None:
        """Refuse formats that nothing executes, and what says otherwise than they do."""
        if not self.formats:
            return
        try:
            widths = formats_named(self.formats)
        except SettingError as error:
            raise ValueError(str(error)) from error
        said = f"formats is {','.join(self.formats)}"
        for name, given in (("bits", self.bits != BITS), ("space", self.space), ("act_bits", self.act_bits)):
            if given:
                raise ValueError(f"{said}, and {name} says otherwise what layers may take; leave one away")
        if not self.candidates:
            raise ValueError(f"{said}, which leaves nothing to quantize; give int8 or fp8 too")
        target = self.target_spec
        for width in widths:
            if not target.holds(width, width, linear=False):
                *others, last = [name for name, one in TARGETS.items() if one.holds(width, width, linear=False)]
                raise ValueError(
                    f"{said}, and the target {target.name} executes no layer in {self.formats_at(width)}; give "
                    f"--target {' or '.join((*others, last))}, or leave it away"
                )
        if FP8 not in widths:
            return
        if self.importance == "scale":
            raise ValueError("importance is scale, which compares scales, and those of FP8 say nothing; give kl")
        if self.gpus is not None:
            refused = without_fp8(capabilities_named(split(self.gpus)), f"gpus is {self.gpus}, and the model")
            if refused is not None:
                raise ValueError(refused)

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
    def engine_options(self) -> EngineOptions | None:
        """How the engine is to be built; None where nothing is said about it."""
        batch = None if self.batch is None else BatchRange.parse(self.batch)
        return given_options(
            batch=batch,
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


def _require_one_of(name: str, value: str | None, known: Iterable[str]) -> None:
    if value is not None and value not in known:
        *first, last = map(repr, known)
        raise ValueError(f"{name} is {value!r}; expected {', '.join(first)} or {last}{did_you_mean(value, known)}")


def option_of(name: str) -> str:
    """The option of ``build`` that sets a field."""
    return FLAGS.get(name) or plain_option(name)


def toml(value: Any) -> str:
    """A plain value as TOML writes it."""
    return str(value).lower() if isinstance(value, bool) else json.dumps(value)


def make_config(options: dict[str, Any], file: Path | None = None) -> Config:
    """Options (None: not given) over a TOML file over defaults.

    Raises RecordError for a file with an unknown key or a value that makes no sense, SettingError for such an option;
    both name it.
    """
    settings = _load_toml(file) if file is not None else {}
    if file is not None:
        beside = {key: options[key] for key in NEEDED if options.get(key) is not None}
        try:
            _validated({**settings, **beside})
        except _Invalid as error:
            raise RecordError(f"{file}: {error.key}{error.message}") from error
    given = {key: value for key, value in options.items() if value is not None}
    training = {key: given.pop(key) for key in TRAINING_OPTIONS if key in given}
    settings.update(given)
    _let_latency_decide(settings)
    if training:
        known = settings.get("training", {})
        settings["training"] = {**(known.given() if isinstance(known, Training) else known), **training}
    try:
        return _validated(settings)
    except _Invalid as error:
        key, _, rest = f"{error.key}{error.message}".removeprefix("training.").partition(" ")
        raise SettingError(f"{option_of(key)} {rest}") from error


def _let_latency_decide(settings: dict[str, Any]) -> None:
    """A latency limit that stands alone is searched over the target's native pairs: below 8 bits nothing is faster."""
    alone = not any(settings.get(name) is not None for name in (*LIMITING, "policy", "space", "act_bits"))
    target = TARGETS.get(settings.get("target") or DEFAULT.name, DEFAULT)
    runs = settings.get("engine") is not False and target.exportable
    if settings.get("max_latency_ms") is not None and alone and runs:
        settings["space"] = f"{NATIVE}{target.name}"
        settings.setdefault("bits", (8,))


def write_config(config: Config, path: Path) -> None:
    """Write a configuration as JSON, so that later commands on the directory know what was built.

    Files of the user are written as absolute paths: those commands may run in another folder.
    """
    kind, _, place = config.data.partition(":")
    given = {name: getattr(config, name) for name in ("weights", "classes", "calibration", "policy", *COST_FILES)}
    settled = replace(
        config,
        **{name: file and file.absolute() for name, file in given.items()},
        data=f"{kind}:{Path(place).expanduser().absolute()}" if kind in DATA_AT_PATHS else config.data,
    )
    write_text(path, json.dumps({"format": FORMAT, **asdict(settled)}, indent=1, default=str) + "\n")


def trusted_config(folder: Path, *, trusted: bool) -> Config:
    """The configuration of a finished build, once its files were held against their hashes. ``trusted``: the user said
    so, else NotTrusted is raised where it names a module that the user never named."""
    config = load_config(folder / CONFIG)
    names = (config.model, config.data)
    if trusted:
        trust(*names)
    else:
        require_trusted(names, str(folder / CONFIG))
    return replace(config, out=folder)


def load_config(path: Path) -> Config:
    """Read what `write_config` wrote. Raises RecordError for a damaged file."""
    try:
        settings = load_json(path, f"a {FORMAT} file")
        if settings.pop("format") != FORMAT:
            raise KeyError("format")
        return _validated(settings)
    except (RecordError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path} is not a {FORMAT} file; run the build again") from error


class _Invalid(ValueError):
    """A value that makes no sense: ``key`` with what separates it from ``message``."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}{message}")
        self.key = key
        self.message = message


def _load_toml(file: Path) -> dict[str, Any]:
    try:
        text = read_whole(file, "a TOML file").decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"the configuration {file} is not UTF-8 text; expected a TOML file") from error
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and numbers and levels beyond all bounds
        raise RecordError(f"{file} is not valid TOML: {plain(error)}; expected lines NAME = VALUE") from error
    settings = {key.replace("-", "_"): value for key, value in found.items()}
    for name in VERSIONS:
        if isinstance(settings.get(name), int | float):  # without its quotes
            settings[name] = str(settings[name])
    if isinstance(settings.get("training"), dict):
        settings["training"] = {key.replace("-", "_"): value for key, value in settings["training"].items()}
        _refuse_unknown(settings["training"], Training, f"{file}, [training]")
    _refuse_unknown(settings, Config, str(file))
    return settings


def _refuse_unknown(settings: dict[str, Any], cls: type, origin: str) -> None:
    known = [field.name for field in fields(cls)]
    for key in settings:
        if key not in known:
            near = _elsewhere(key, cls) or did_you_mean(key, known) or _likest(key, known)
            raise RecordError(f"{origin}: unknown key {plain(key, 60)!r}{near}")


def _elsewhere(key: str, cls: type) -> str:
    """Where a key is known that is unknown here."""
    if cls is Config and key in {field.name for field in fields(Training)}:
        return "; it is a key of the section [training]"
    if cls is Training and key in {field.name for field in fields(Config)}:
        return "; it is a key of the file's beginning, before the section [training]"
    return ""


def _likest(key: str, known: list[str]) -> str:
    """Known keys, the most alike first."""
    near = difflib.get_close_matches(key[:60], known, n=6, cutoff=0.0)
    return f"; known keys most like it: {', '.join(near)} (limpq-deploy build --help-all has all)"


def _validated(settings: dict[str, Any]) -> Config:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Config).validate_python(settings)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "value_error":
            section = f"{where}." if where else ""
            raise _Invalid(plain(section, 60), problem["msg"].removeprefix("Value error, ")) from error
        expected = KINDS.get(problem["type"], problem["msg"].removeprefix("Input should be "))
        raise _Invalid(plain(where, 60), f" is {plain(repr(problem['input']), 80)}; expected {expected}") from error
