"""What a build is asked to do: options over a TOML file over defaults, and how that is kept beside the build."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.datasets import KINDS as DATA_AT_PATHS
from limpq_deploy.calibration.errors import RecordError, SettingError
from limpq_deploy.calibration.files import write_text
from limpq_deploy.calibration.json_text import load_json
from limpq_deploy.calibration.trust import require_trusted, trust
from limpq_deploy.export.records.targets import DEFAULT, TARGETS
from limpq_deploy.pipeline.setting_checks import check_settings
from limpq_deploy.pipeline.settings import TRAINING_OPTIONS, Settings, option_of
from limpq_deploy.pipeline.toml_settings import Invalid, load_toml, validated
from limpq_deploy.policy.budgets import COST_FILES, LIMITING
from limpq_deploy.policy.spaces import NATIVE
from limpq_deploy.train.settings import Training
from limpq_deploy.workspace.file_names import CONFIG

FORMAT = "limpq.config/1"

NEEDED = ("model", "weights", "ptq", "target")
"""Settings without which others have no effect; an option may give them to those of a file."""

VERSIONS = ("tensorrt",)
"""Settings that are versions, which TOML may take for numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """The settings of one build, which make sense together. Raises ValueError that begins with the field's name."""

    def __post_init__(self) -> None:
        check_settings(self)


def make_config(options: dict[str, Any], file: Path | None = None) -> Config:
    """Options (None: not given) over a TOML file over defaults.

    Raises RecordError for a file with an unknown key or a value that makes no sense, SettingError for such an option;
    both name it.
    """
    settings = load_toml(file, Config, {"training": Training}, texts=VERSIONS) if file is not None else {}
    if file is not None:
        beside = {key: options[key] for key in NEEDED if options.get(key) is not None}
        try:
            validated(Config, {**settings, **beside})
        except Invalid as error:
            raise RecordError(f"{file}: {error.key}{error.message}") from error
    given = {key: value for key, value in options.items() if value is not None}
    training = {key: given.pop(key) for key in TRAINING_OPTIONS if key in given}
    settings.update(given)
    _let_latency_decide(settings)
    if training:
        known = settings.get("training", {})
        settings["training"] = {**(known.given() if isinstance(known, Training) else known), **training}
    try:
        return validated(Config, settings)
    except Invalid as error:
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
        return validated(Config, settings)
    except (RecordError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path} is not a {FORMAT} file; run the build again") from error
