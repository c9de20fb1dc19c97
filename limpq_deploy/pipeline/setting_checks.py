"""Settings of a build held against each other: each in its range, none without effect, none against another."""

from collections.abc import Iterable
from dataclasses import fields
from math import isfinite

from limpq_deploy.calibration.errors import SettingError
from limpq_deploy.calibration.numbers.formats import FP8
from limpq_deploy.calibration.suggestions import did_you_mean
from limpq_deploy.export.records.engine_options import LEVELS, BatchRange
from limpq_deploy.export.records.placement import FLOAT_BITS
from limpq_deploy.export.records.targets import TARGETS, taking
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import capabilities_named, split
from limpq_deploy.export.runtimes.tensorrt_rtx.needs import without_fp8
from limpq_deploy.model.names import LIBRARIES
from limpq_deploy.pipeline.settings import Settings
from limpq_deploy.policy.budgets import TYPES
from limpq_deploy.policy.spaces import NATIVE, formats_named
from limpq_deploy.tasks.names import require_task

POSITIVE = (*(name for name, kind in TYPES.items() if kind in (int, float)), "min_speedup", "latency_seconds")


def check_settings(config: Settings) -> None:
    """Raises ValueError, which begins with the name of a setting, at the first that makes no sense."""
    for check in (
        _check_bits,
        _check_formats,
        _check_weights,
        _check_target,
        _check_engine,
        _check_widths,
        _check_company,
        _check_numbers,
    ):
        check(config)


def _check_bits(config: Settings) -> None:
    """Candidate widths."""
    bits = config.bits
    if not bits or list(bits) != sorted(set(bits)) or not all(2 <= one <= 8 for one in bits):
        shown = ",".join(map(str, bits[:12])) + ("" if len(bits) <= 12 else ",...")
        raise ValueError(f"bits is {shown or 'empty'}; expected ascending bit-widths from 2 to 8, such as 2,3,4,5,6")


def _check_formats(config: Settings) -> None:
    """Refuse formats that nothing executes, and what says otherwise than they do."""
    if not config.formats:
        return
    try:
        widths = formats_named(config.formats)
    except SettingError as error:
        raise ValueError(str(error)) from error
    said = f"formats is {','.join(config.formats)}"
    for name, given in (
        ("bits", not config.is_default("bits")),
        ("space", config.space),
        ("act_bits", config.act_bits),
    ):
        if given:
            raise ValueError(f"{said}, and {name} says otherwise what layers may take; leave one away")
    if not config.candidates:
        raise ValueError(f"{said}, which leaves nothing to quantize; give int8 or fp8 too")
    target = config.target_spec
    for width in widths:
        if not target.holds(width, width, linear=False):
            *others, last = [name for name, one in TARGETS.items() if one.holds(width, width, linear=False)]
            raise ValueError(
                f"{said}, and the target {target.name} executes no layer in {config.formats_at(width)}; give "
                f"--target {' or '.join((*others, last))}, or leave it away"
            )
    if FP8 not in widths:
        return
    if config.importance == "scale":
        raise ValueError("importance is scale, which compares scales, and those of FP8 say nothing; give kl")
    if config.gpus is not None:
        refused = without_fp8(capabilities_named(split(config.gpus)), f"gpus is {config.gpus}, and the model")
        if refused is not None:
            raise ValueError(refused)


def _check_weights(config: Settings) -> None:
    """Where the float model's weights come from."""
    if config.weights_key is not None and config.weights is None:
        raise ValueError(
            f"weights_key is {config.weights_key}, which has no effect without weights; give --weights too"
        )
    if config.pretrained and config.weights is not None:
        raise ValueError(f"pretrained asks for published weights, and weights is {config.weights}; leave one away")
    if config.pretrained and config.model.partition("/")[0] not in LIBRARIES:
        raise ValueError(
            f"pretrained has no meaning for the model {config.model}; expected torchvision/NAME or timm/NAME, or "
            "give --weights"
        )


def _check_target(config: Settings) -> None:
    """The target, the task, and settings that belong to some targets alone."""
    _require_one_of("target", config.target, TARGETS)
    require_task(config.task)
    target = config.target_spec
    native = (config.space or "").removeprefix(NATIVE)
    if config.space != native and native in TARGETS and native != target.name:
        raise ValueError(
            f"space is {config.space}, pairs of another target than {target.name}; give --space {NATIVE}{target.name}"
        )
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default and target.name not in taking(field.name):
            said = "" if isinstance(value, bool) else f" is {value}, which"
            raise ValueError(f"{field.name}{said} has no effect without --target {' or '.join(taking(field.name))}")
    _require_one_of("tensorrt", config.tensorrt, target.versions)
    if not target.exportable:
        for name, value in (("storage", config.storage), ("input", config.input if config.input == "uint8" else None)):
            if value is not None:
                raise ValueError(f"{name} is {value}, and the target {target.name} is never exported; leave it away")


def _check_engine(config: Settings) -> None:
    """How an engine is built."""
    if config.batch is not None:
        BatchRange.parse(config.batch)
    if config.gpus is not None:
        capabilities_named(split(config.gpus))
    for name in ("workspace_mib", "builds"):
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least 1")
    if config.builder_level is not None and config.builder_level not in LEVELS:
        raise ValueError(f"builder_level is {config.builder_level}; expected {LEVELS[0]} to {LEVELS[-1]}")


def _check_widths(config: Settings) -> None:
    """Widths of pinned layers and of activations."""
    if not 2 <= config.pinned_bits <= 8:
        raise ValueError(f"pinned_bits is {config.pinned_bits}; expected 2 to 8")
    if config.act_bits == FLOAT_BITS:
        for name, given in (("space", config.space), ("scales pow2", config.scales == "pow2" or None)):
            if given is not None:
                raise ValueError(
                    f"act_bits is float, so that weights alone are integers, and {name} says otherwise; leave one away"
                )
    elif config.act_bits is not None and config.act_bits not in config.bits:
        shown = ",".join(map(str, sorted({*config.bits, config.act_bits})))
        hint = (
            f"which bits does not list; give --bits {shown}"
            if 2 <= config.act_bits <= 8
            else f"expected 2 to 8, or float ({FLOAT_BITS})"
        )
        raise ValueError(f"act_bits is {config.act_bits}, {hint}")


def _check_company(config: Settings) -> None:
    """Settings that mean something beside others alone."""
    if config.ptq and not config.finetune:
        raise ValueError(
            "ptq trains nothing at all, and --no-finetune (finetune = false) takes models from the joint training; "
            "leave one away"
        )
    for name in () if config.ptq else ("ranges", "calibration_images"):
        if getattr(config, name) is not None:
            raise ValueError(f"{name} is {getattr(config, name)}, which has no effect without ptq; give --ptq too")
    if config.calibration_images is not None and config.calibration_images < 2:
        raise ValueError(f"calibration_images is {config.calibration_images}; expected at least 2")
    for name in ("importance", "alpha", "outliers", "solver") if config.policy is not None else ():
        if getattr(config, name) not in (None, "auto"):
            raise ValueError(
                f"{name} is {getattr(config, name)}, and nothing is searched where a policy is given; leave one away"
            )


def _check_numbers(config: Settings) -> None:
    """Numbers, each in its range."""
    for name in POSITIVE:
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; expected a number above 0")
    if config.latency_rounds < 1:
        raise ValueError(f"latency_rounds is {config.latency_rounds}; expected at least 1")
    if not config.is_default("latency_rounds") and not config.goes_round:
        raise ValueError(
            f"latency_rounds is {config.latency_rounds}, which has no effect unless a latency limit is searched for: "
            "give --max-latency-ms alone or with --space native:TARGET, and no --latency-table"
        )
    if config.alpha is not None and not 0 <= config.alpha < float("inf"):
        raise ValueError(f"alpha is {config.alpha}; expected 0 or above")
    if config.max_float_share is not None and not 0 <= config.max_float_share <= 1:
        raise ValueError(f"max_float_share is {config.max_float_share}; expected a share from 0 to 1, such as 0.2")
    if not isfinite(config.max_accuracy_drop):
        raise ValueError(
            f"max_accuracy_drop is {config.max_accuracy_drop}; expected points of the task's figure, such as 1.0"
        )
    if not 0 <= config.seed < 2**63:
        raise ValueError(f"seed is {config.seed}; expected 0 or above, below 2^63")


def _require_one_of(name: str, value: str | None, known: Iterable[str]) -> None:
    if value is not None and value not in known:
        *first, last = map(repr, known)
        raise ValueError(f"{name} is {value!r}; expected {', '.join(first)} or {last}{did_you_mean(value, known)}")
