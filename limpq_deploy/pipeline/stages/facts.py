"""What stages depend on beyond plain settings, and when they are needed: each fact and condition in one place."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limpq_deploy.calibration.records import load_record, to_dict
from limpq_deploy.calibration.threads import most_threads
from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.records.placement import BitPair
from limpq_deploy.export.runtimes.cuda.driver import ask_driver
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import installed_version
from limpq_deploy.pipeline.deployed import Deployed
from limpq_deploy.pipeline.settings import ENGINE_SETTINGS
from limpq_deploy.pipeline.stages.comparison import has_own_fp8, own_pair
from limpq_deploy.pipeline.stages.declaration import SETTINGS, Condition, Fact
from limpq_deploy.pipeline.stages.versions import versions
from limpq_deploy.policy.budgets import LIMITING
from limpq_deploy.policy.indicators import Indicators
from limpq_deploy.policy.policy import Policy
from limpq_deploy.train.settings import (
    FinetuneSettings,
    FloatSettings,
    JointSettings,
    TrainSettings,
    finetune_settings,
    float_settings,
    joint_settings,
)
from limpq_deploy.workspace.file_names import ANSWERS, COMPARISON, INDICATORS, POLICY, WHAT_IF
from limpq_deploy.workspace.step import Part

if TYPE_CHECKING:
    from limpq_deploy.pipeline.context import Subject

PUBLISHED_LEARNING_RATE = 0.01
"""Of the float training where published weights get a new last layer: ten times below that from random numbers."""

OF_MODEL = ("model", "weights", "weights_key", "pretrained")
OF_DATA = ("data", "classes", "model", "task", "calibration")
OF_PLACEMENT = (*OF_MODEL, *OF_DATA, "target", "pinned_bits", "act_bits")

MODEL_FACT = Fact("model", OF_MODEL, lambda subject: subject.model_digest())
DATA = Fact("data", OF_DATA, lambda subject: subject.data_digest())
CLASSES = Fact("classes", OF_DATA, lambda subject: subject.dataset.classes)
PREPROCESS = Fact("preprocess", OF_DATA, lambda subject: to_dict(subject.preprocess))
TARGET = Fact("target", ("target",), lambda subject: to_dict(subject.target))
PLACED = Fact("placement", OF_PLACEMENT, lambda subject: to_dict(subject.placement))
FORM = Fact(
    "form", ("target", "tensorrt"), lambda subject: to_dict(subject.form) if subject.target.exportable else None
)
VERSIONS = Fact("versions", (), lambda subject: versions())
COMMAND = Fact("command", tuple(sorted(SETTINGS)), lambda subject: subject.asked.command_line())

COMPILER = Fact(
    "compiler", ("target",), lambda subject: installed_version() if subject.target.compiled_by is not None else None
)
"""Version of NVIDIA's compiler that is asked about the target's files."""

ENGINE_OPTIONS = ENGINE_SETTINGS


def _machine(subject: Deployed) -> dict[str, Any]:
    environment = read_environment()
    gpus = to_dict(ask_driver()) if subject.target.device == "gpu" else None
    return {"cpu": [environment.cpu, *environment.instruction_sets], "gpus": gpus}


RUNTIME = (
    Fact("machine", ("target",), _machine),
    Fact("libraries", (), lambda subject: read_environment().libraries),
    Fact("runtime", ("target",), lambda subject: subject.target.runtime),
)
"""What exported files and measurements depend on beside their inputs and `ENGINE_OPTIONS`."""

TIMED = (*RUNTIME, Fact("threads", (), lambda subject: most_threads()))
"""What latencies depend on: with ``--threads`` the runtime's default is another."""


def _training(settings: TrainSettings, subject: "Subject") -> dict[str, Any]:
    augment = subject.dataset.augment
    return {
        "settings": asdict(settings),
        "seed": subject.config.seed,
        "augment": None if augment is None else to_dict(augment),
    }


def _images(subject: "Subject") -> int:
    return len(subject.dataset.split("train"))


def float_training(subject: "Subject") -> FloatSettings:
    """How a float model is trained."""
    settings = float_settings(_images(subject), subject.config.training)
    if subject.config.pretrained and subject.config.training.float_lr is None:
        return replace(settings, learning_rate=PUBLISHED_LEARNING_RATE)
    return settings


def joint_training(subject: "Subject") -> JointSettings:
    """How all bit-widths are trained together."""
    return joint_settings(_images(subject), subject.config.training)


def finetune_training(subject: "Subject") -> FinetuneSettings:
    """How a policy is trained."""
    return finetune_settings(_images(subject), subject.config.training)


def _of_training(*names: str) -> tuple[str, ...]:
    common = ("batch_size", "label_smoothing", "warmup", "accumulate", "precision", "channels_last", "freeze_batchnorm")
    return ("seed", *OF_DATA, *(f"training.{name}" for name in (*names, *common)))


FLOAT_TRAINING = Fact(
    "training",
    (*_of_training("float_steps", "float_epochs", "float_lr"), "pretrained", "weights"),
    lambda subject: None if subject.start.trained else _training(float_training(subject), subject),
)
JOINT_TRAINING = Fact(
    "training",
    _of_training(
        *("joint_steps", "joint_epochs", "joint_lr", "data_fraction"),
        *("distill", "freeze_weights", "inplace_distill"),
    ),
    lambda subject: _training(joint_training(subject), subject),
)
FINETUNE_TRAINING = Fact(
    "training",
    _of_training(
        *("finetune_steps", "finetune_epochs", "finetune_lr", "finetune_start"), *("distill", "temperature", "ema")
    ),
    lambda subject: _training(finetune_training(subject), subject),
)


def ranges_method(subject: "Subject") -> str:
    """How scales are found where nothing is trained."""
    return subject.config.ranges or "mse"


def calibration_images(subject: "Subject") -> int:
    """Training images that scales are found on where nothing is trained."""
    from limpq_deploy.train.ptq import IMAGES

    return subject.config.calibration_images or IMAGES


CALIBRATION = Fact(
    "calibration",
    ("ranges", "calibration_images"),
    lambda subject: {
        "ranges": subject.config.ranges or f"{ranges_method(subject)} or another",
        "images": calibration_images(subject),
    },
)


MEASURES_IMPORTANCE = Fact("searching", ("policy",), lambda subject: subject.config.policy is None)


def profile_seconds(subject: "Subject") -> float:
    """Calls of each part of a model, in seconds."""
    return min(1.0, subject.config.latency_seconds)


PROFILED = Fact("latency_seconds", ("latency_seconds",), profile_seconds)

OF_ROUNDS = ("max_latency_ms", "latency_table", "space", "policy", "engine", "target")
LATENCY_LIMIT = Fact(
    "max_latency_ms",
    OF_ROUNDS,
    lambda subject: (
        subject.config.max_latency_ms if subject.config.latency_table is not None or subject.config.goes_round else None
    ),
)
LIMITS = (
    Fact("like", (*LIMITING, *OF_ROUNDS, "act_bits", "formats"), lambda subject: subject.config.budget_like),
    LATENCY_LIMIT,
    Fact(
        "latency_rounds",
        ("latency_rounds", *OF_ROUNDS),
        lambda subject: subject.config.latency_rounds if subject.config.goes_round else None,
    ),
)
"""Budgets of which a build may make its own, or which concern the search only together with others."""


def _pairs(path: Path) -> dict[str, BitPair]:
    return load_record(Policy, path).buildable_pairs(str(path))


PAIRS = Part(POLICY, "pairs", _pairs)
"""Bits by layer: whoever trains or exports them does not depend on how long the solver took."""


def _importance(path: Path) -> Any:
    return to_dict(replace(load_record(Indicators, path), found=None))


IMPORTANCE = Part(INDICATORS, "importance", _importance)
"""All but what the search puts down in it."""

UNIFORM_PAIR = Part(COMPARISON, "pair", own_pair)


def condition(says: str, settings: tuple[str, ...], holds: Callable[[Any], bool]) -> Condition:
    """One that settings alone decide."""
    return Condition(says, settings, lambda subject, folder: holds(subject))


def _came(subject: Deployed, file: Path) -> bool:
    """Whether a record is there that every build makes: bundles of earlier versions do not carry it."""
    return not subject.handed_over or file.is_file()


TRAINS = condition("quantized models are trained", ("ptq",), lambda subject: not subject.config.ptq)
CALIBRATES = condition("nothing is trained", ("ptq",), lambda subject: subject.config.ptq)
FINETUNES = condition(
    "policies are fine-tuned", ("ptq", "finetune"), lambda subject: subject.config.finetune and not subject.config.ptq
)
TAKES_JOINT = condition(
    "policies are taken from the joint training",
    ("ptq", "finetune"),
    lambda subject: not subject.config.finetune and not subject.config.ptq,
)
CALIBRATES_OTHERS = condition(
    "widths that joint training does not know are not trained",
    ("ptq", "finetune"),
    lambda subject: subject.config.ptq or not subject.config.finetune,
)
SEARCHES = condition("no policy is given", ("policy",), lambda subject: subject.config.policy is None)
TAKES_POLICY = condition("a policy is given", ("policy",), lambda subject: subject.config.policy is not None)
PREVIEWS = condition("policies compete by preview", ("importance",), lambda subject: subject.config.importance is None)
BEGAN_HERE = condition("the build began here", (), lambda subject: not subject.handed_over)
HANDED_OVER = condition("another machine handed it over", (), lambda subject: subject.handed_over)
ROUNDS_MADE = condition("a latency limit is searched for", OF_ROUNDS, lambda subject: subject.config.goes_round)
KNOWS_ANSWERS = Condition(
    "answers were kept, or travelled", (), lambda subject, folder: _came(subject, folder / ANSWERS)
)
KNOWS_WHAT_IF = Condition(
    "other budgets were tried, and what was found travelled",
    SEARCHES.settings,
    lambda subject, folder: SEARCHES.holds(subject, folder) and _came(subject, folder / WHAT_IF),
)
EXPORTS = condition("the target is exported", ("target",), lambda subject: subject.target.exportable)
BUILDS = condition("an engine is built", ("target", "engine"), lambda subject: subject.builds_engine)
MEASURES = condition(
    "an engine is built, or the files are executed as written",
    ("target", "engine"),
    lambda subject: subject.builds_engine or subject.hands_over,
)
HANDS_OVER = condition("an engine is left to the target", ("target", "engine"), lambda subject: subject.hands_over)
HANDS_WHAT_IF_OVER = condition(
    "an engine is left to the target, and other budgets were tried",
    ("target", "engine", *SEARCHES.settings),
    lambda subject: subject.hands_over and subject.config.policy is None,
)
COMPILES_ONLY = condition(
    "an engine is built that runs elsewhere", ("target", "engine"), lambda subject: subject.compiles_only
)
STORES = condition("weights are stored at their bits", ("storage",), lambda subject: subject.config.storage is not None)
KEEPS_STORED = condition(
    "weights are stored at their bits, here",
    ("storage",),
    lambda subject: subject.config.storage is not None and not subject.handed_over,
)
PIXEL_INPUT = condition("images are pixels", ("input",), lambda subject: subject.config.input == "uint8")
ON_CPU = condition("the runtime computes on a CPU", ("target",), lambda subject: subject.target.device == "cpu")
INTEGERS = condition("activations are integers", OF_PLACEMENT, lambda subject: not subject.placement.weights_only)
NOT_ON_CPU = condition("the runtime builds engines", ("target",), lambda subject: subject.target.builds_engines)
STUDIED = condition(
    "engines of integers are studied here",
    (*OF_PLACEMENT, "engine"),
    lambda subject: subject.builds_engine and not subject.handed_over and not subject.placement.weights_only,
)
AUDITED = condition(
    "an engine of integers is audited",
    (*OF_PLACEMENT, "engine"),
    lambda subject: subject.builds_engine and subject.target.builds_engines and not subject.placement.weights_only,
)
LOOKED_INTO = condition(
    "integers are audited",
    (*OF_PLACEMENT, "engine"),
    lambda subject: subject.builds_engine and not subject.placement.weights_only,
)
STORES_UNIFORM = Condition(
    "weights are stored at their bits, of a uniform policy of its own too",
    ("storage",),
    lambda subject, folder: subject.config.storage is not None and own_pair(folder / COMPARISON) is not None,
    (COMPARISON,),
)
KEEPS_STORED_UNIFORM = Condition(
    "weights of a uniform policy of its own are stored at their bits, here",
    STORES_UNIFORM.settings,
    lambda subject, folder: not subject.handed_over and STORES_UNIFORM.holds(subject, folder),
    STORES_UNIFORM.reads,
)
OWN_UNIFORM = Condition(
    "a uniform policy, not the policy itself, keeps the same limits",
    (),
    lambda subject, folder: own_pair(folder / COMPARISON) is not None,
    (COMPARISON,),
)
OWN_FP8 = Condition(
    "FP8 is among the formats, and uniform bits within the limits are not FP8 themselves",
    (),
    lambda subject, folder: has_own_fp8(folder / COMPARISON),
    (COMPARISON,),
)
