"""A model in a Triton repository: versions, configuration and manifest, changed together in one step.

    REPOSITORY/NAME/config.pbtxt, labels.txt, model_analyzer.yaml, manifest.json, manifest.sig
    REPOSITORY/NAME/3/model.onnx, canary_inputs.npy, canary_outputs.npy, ...

A change builds the whole folder NAME anew under a hidden name (kept versions are hard links), syncs it, and exchanges
the two: that rename is the one commit point. The hidden folder stands beside REPOSITORY, not in it, where that is one
file system: Triton takes every folder of a repository for a model, and does not start with one that is none.
manifest.json lists every file of the folder: `verify_bundle`, signatures and canaries work on it as on a bundle.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from limpq_deploy.calibration.errors import OutputError
from limpq_deploy.calibration.records import from_json, to_dict, to_json
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.engine_record import Machine
from limpq_deploy.export.records.environment import Environment
from limpq_deploy.export.ship.atomic_folder import building, locked, move_into_place, put, sync_folders, synced
from limpq_deploy.export.ship.manifest import MANIFEST, SIGNATURE, BundleFile, CanaryFiles, Manifest
from limpq_deploy.export.ship.signature import remember_signed, sign_bytes
from limpq_deploy.export.ship.triton.model_analyzer import SWEEP, make_sweep
from limpq_deploy.export.ship.triton.served_io import CONFIG, LABELS
from limpq_deploy.export.ship.verify import load_manifest, verify_bundle

SPARE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedVersion:
    """Facts of one version, those of its bundle's manifest. ``model_file`` and ``canaries``: names in the model's
    folder. ``config`` and ``labels``: texts that stand beside it while it is served. ``forced``: what its verdict was
    and what speaks against its plans, where it was shipped in spite of that; empty otherwise. ``gpus``: what each
    TensorRT plan was built on, where that is known."""

    version: int
    backend: str
    model: str
    target: str
    model_file: str
    canaries: CanaryFiles
    environment: Environment
    versions: dict[str, str]
    policy: Any
    verdict: Any
    preprocess: Any
    config: str
    labels: str
    forced: str = ""
    gpus: tuple[Machine, ...] = ()
    engine: EngineOptions | None = None
    answered_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What the manifest of a repository's model says beyond that of a bundle. ``active``: the version served."""

    name: str
    active: int
    shipped: tuple[ShippedVersion, ...]
    format: Literal["limpq.serving/1"] = field(default="limpq.serving/1")

    def version(self, number: int) -> ShippedVersion | None:
        return next((shipped for shipped in self.shipped if shipped.version == number), None)


def load_serving(folder: Path, public_key: Path | None = None) -> Serving:
    """What is shipped in a model's folder, every file checked; with ``public_key`` its signature first.

    Raises BundleRefused as `verify_bundle`, OutputError for a folder that `ship` did not write.
    """
    verify_bundle(folder, public_key)
    found = load_manifest(folder, public_key).serving
    if found is None:
        raise OutputError(f"{folder} is a bundle, no model of a repository; give REPOSITORY/NAME")
    return from_json(Serving, json.dumps(found), f"{folder / MANIFEST}, serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """``private`` signs what is written; ``public`` checks what is there before it is kept. None: neither."""

    private: Path | None = None
    public: Path | None = None


def ship_version(
    repository: Path,
    name: str,
    files: Mapping[str, Path | bytes],
    describe: Callable[[int], ShippedVersion],
    *,
    keep: int = 3,
    keys: Keys | None = None,
    check: Callable[[ShippedVersion, tuple[int, ...]], None] = lambda shipped, versions: None,
) -> Serving:
    """Add a version to a model (the first one: number 1) and serve it; the newest ``keep`` versions remain.

    ``files``: name in the version's folder -> content. ``describe``: facts of the version of that number. ``check``:
    raises where the configuration and the folders do not fit; called before anything is written. Raises OutputError
    where it cannot be written (also: too little space, another writer at work), BundleRefused where what is there is
    not what its manifest says: it is never carried on.
    """
    require_model_name(name)
    with _writing(repository, name) as folder:
        _require_keys(folder, keys or Keys())
        old = load_serving(folder, (keys or Keys()).public) if folder.exists() else None
        number = max((shipped.version for shipped in old.shipped), default=0) + 1 if old else 1
        kept = sorted(old.shipped, key=lambda shipped: shipped.version)[-(keep - 1) :] if old and keep > 1 else []
        new = describe(number)
        check(new, tuple(shipped.version for shipped in (*kept, new)))
        _require_space(repository, files)
        serving = Serving(name=name, active=number, shipped=(*kept, new))
        _write(folder, serving, {f"{number}/{file}": content for file, content in files.items()}, keys or Keys())
        return serving


def roll_back(folder: Path, version: int, *, keys: Keys | None = None) -> Serving:
    """Serve another version that is still in a model's folder, with the configuration it was shipped with."""
    with _writing(folder.parent, folder.name):
        _require_keys(folder, keys or Keys())
        serving = load_serving(folder, (keys or Keys()).public)
        if serving.version(version) is None:
            there = ", ".join(str(shipped.version) for shipped in serving.shipped)
            raise OutputError(f"{folder} has no version {version}; versions there: {there}")
        serving = replace(serving, active=version)
        _write(folder, serving, {}, keys or Keys())
        return serving


def require_model_name(name: str) -> None:
    """Raise OutputError unless Triton and every file system take the name as it is."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", name):
        raise OutputError(f"{name!r} is no name of a model; use letters, digits, '_', '.' and '-' (--name)")


@contextlib.contextmanager
def _writing(repository: Path, name: str) -> Iterator[Path]:
    """The model's folder, with the repository locked for one writer. Errors of the system become OutputError."""
    folder = repository / name
    try:
        repository.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink() or (folder.exists() and not (folder / MANIFEST).is_file()):
            raise OutputError(f"{folder} was not written by ship ({MANIFEST} is missing); choose another --name")
        with locked(repository):
            yield folder
    except BlockingIOError as error:
        raise OutputError(f"another process is writing to {repository}; try again when it has ended") from error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise OutputError(
            f"cannot write {folder} ({error.strerror or error}{where}); what was served is still there: "
            "make room, or choose a repository that you may write to"
        ) from error


def _require_keys(folder: Path, keys: Keys) -> None:
    """What is signed stays signed, and nothing unchecked is signed along with it."""
    if (folder / SIGNATURE).exists() and (keys.private is None or keys.public is None):
        raise OutputError(f"{folder} is signed; give --key PUB, which checks what is kept, and --sign KEY")


def _require_space(repository: Path, files: Mapping[str, Path | bytes]) -> None:
    sizes = [len(content) if isinstance(content, bytes) else content.stat().st_size for content in files.values()]
    needed, free = sum(sizes) + SPARE_BYTES, shutil.disk_usage(repository).free
    if free < needed:
        raise OutputError(f"{repository} has {free:,} bytes free; the new version needs {needed:,}: make room")


def _write(folder: Path, serving: Serving, new: Mapping[str, Path | bytes], keys: Keys) -> None:
    active = serving.version(serving.active)
    assert active is not None, "the served version is one of the shipped"
    old = {file.name: file for file in load_manifest(folder).files} if folder.exists() else {}
    numbers = {str(shipped.version) for shipped in serving.shipped}
    with building(folder, _staging(folder)) as temporary:
        files = [_keep(folder, temporary, file) for name, file in old.items() if name.partition("/")[0] in numbers]
        beside = {CONFIG: active.config, SWEEP: make_sweep(active.config)}
        beside |= {LABELS: active.labels} if active.labels else {}
        contents = {**{file: text.encode() for file, text in beside.items()}, **new}
        files += [put(temporary, name, content) for name, content in contents.items()]
        text = to_json(_manifest(serving, active, files)).encode()
        with synced(temporary / MANIFEST) as target:
            target.write(text)
        if keys.private is not None:
            signature = sign_bytes(text, keys.private, folder)
            with synced(temporary / SIGNATURE) as target:
                target.write(signature)
        verify_bundle(temporary)
        sync_folders(temporary)
        move_into_place(temporary, folder)
    if keys.private is not None:
        remember_signed(folder, keys.private, signature)


def _manifest(serving: Serving, active: ShippedVersion, files: list[BundleFile]) -> Manifest:
    return Manifest(
        model=active.model,
        target=active.target,
        model_file=active.model_file,
        files=tuple(sorted(files, key=lambda file: file.name)),
        canaries=active.canaries,
        environment=active.environment,
        versions=active.versions,
        policy=active.policy,
        verdict=active.verdict,
        preprocess=active.preprocess,
        engine=active.engine,
        answered_by=active.answered_by,
        serving=to_dict(serving),
    )


def _staging(folder: Path) -> Path | None:
    """Beside the repository where a rename from there is possible; None: in it."""
    repository = folder.parent.resolve()
    beside = repository.parent
    if beside.stat().st_dev == repository.stat().st_dev and os.access(beside, os.W_OK | os.X_OK):
        return beside / f"{repository.name}.{folder.name}"
    return None


def _keep(folder: Path, temporary: Path, file: BundleFile) -> BundleFile:
    """A file of a kept version: the same one where the file system links, else a copy."""
    target = temporary / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(folder / file.name, target, follow_symlinks=False)
    except OSError:
        return put(temporary, file.name, folder / file.name)
    return file
