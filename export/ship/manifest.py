"""The manifest of a bundle: what is in it, what it was made of, and which names a file in it may have."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.environment import Environment
from limpq_deploy.export.records.targets import TARGETS

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
"""Beside the manifest where a bundle is signed: the only file that the manifest does not list."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """One file: ``name`` relative to the bundle, with ``/``; ``size`` in bytes; ``sha256`` in lower-case hex.

    Raises ValueError for a name that could lead out of the bundle, or is no plain name.
    """

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        require_plain_name(self.name)
        if self.size < 0:
            raise ValueError(f"file {self.name!r} has a negative size")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"file {self.name!r} has no SHA-256 of 64 lower-case hex digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryFiles:
    """Inputs with the answers they must get. ``inputs``: float32 ``.npy`` [N, C, H, W], run as one batch;
    ``outputs``: float32 ``.npy`` [N, numbers], all outputs of an image in a row in the file's order, expected bit for
    bit."""

    inputs: str
    outputs: str
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is shipped.

    ``model_file``: the file that a runtime loads. ``environment``: the machine on which the canaries' answers were
    made. ``versions``: of what made the model. ``policy``, ``verdict`` and ``preprocess``: those records as JSON.
    ``engine``: settings of the engine that made the answers, where the target's runtime builds one (TensorRT).
    ``answered_by``: the runtime that made the answers, where it is not the target's: no engine was built yet.
    ``serving``: in a model repository the record of `ship.repository`, with the facts of every version there; then
    all else is of the version that is served.
    Raises ValueError for unsafe or repeated names, for a model or canary file that is not listed, and for settings of
    an engine that the target has none of.
    """

    model: str
    target: str
    model_file: str
    files: tuple[BundleFile, ...]
    canaries: CanaryFiles
    environment: Environment
    versions: dict[str, str]
    policy: Any
    verdict: Any = None
    preprocess: Any = None
    engine: EngineOptions | None = None
    answered_by: str | None = None
    serving: Any = None
    format: Literal["limpq.manifest/1"] = field(default="limpq.manifest/1")

    def __post_init__(self) -> None:
        names = [file.name for file in self.files]
        folded = [name.casefold() for name in names]
        for name, key in zip(names, folded, strict=True):
            if folded.count(key) > 1:
                raise ValueError(f"file {name!r} is listed twice")
        for name in (self.model_file, self.canaries.inputs, self.canaries.outputs):
            if name not in names:
                raise ValueError(f"file {name!r} is used but not listed under files")
        engines = [name for name, target in TARGETS.items() if target.builds_engines]
        if self.engine is not None and self.target not in engines:
            expected = " or ".join(map(repr, engines))
            raise ValueError(f"it has settings of an engine, and the target is {self.target!r}; expected {expected}")


def require_plain_name(name: str) -> None:
    """Raise ValueError unless ``name`` is a relative path of plain parts (letters, digits, ``_ . -``, no leading dot),
    and not the manifest's own or its signature's."""
    if not all(_PART.fullmatch(part) for part in name.split("/")):
        raise ValueError(f"file name {name!r} is not allowed in a bundle: it must stay inside and have plain parts")
    if name.casefold() in (MANIFEST, SIGNATURE):
        raise ValueError(f"file name {name!r} is the manifest's own")
