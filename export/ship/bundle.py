"""Bundles are written whole or not at all. `verify` reads them again."""

import dataclasses
import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import OutputError
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.calibration.records import from_json, to_dict, to_json
from limpq_deploy.export.records.engine_options import EngineOptions
from limpq_deploy.export.records.environment import Environment
from limpq_deploy.export.ship.atomic_folder import building, move_into_place, put, sync_folders, synced
from limpq_deploy.export.ship.manifest import MANIFEST, SIGNATURE, CanaryFiles, Manifest, require_plain_name
from limpq_deploy.export.ship.verify import BundleRefused, load_manifest

CANARY_INPUTS = "canary_inputs.npy"
CANARY_OUTPUTS = "canary_outputs.npy"


def write_bundle(
    folder: Path,
    files: Mapping[str, Path | bytes],
    *,
    model: str,
    target: str,
    model_file: str,
    canary_inputs_NCHW: NDArray[np.float32],
    canary_outputs: NDArray[np.float32],
    environment: Environment,
    versions: Mapping[str, str],
    policy: Any,
    verdict: Any = None,
    preprocess: Any = None,
    engine: EngineOptions | None = None,
    answered_by: str | None = None,
) -> Manifest:
    """Write ``folder`` with ``files`` (name in the bundle -> a file to copy, or its bytes), canaries and manifest.

    ``canary_outputs``: float32 [N, numbers], what the runtime answered to all N inputs in one batch, all outputs of an
    image in one row (`runtimes.base.in_rows`). ``policy``,
    ``verdict`` and ``preprocess`` are records or plain JSON values; ``engine``: how the answering engine was built, if
    one was; ``answered_by``: the runtime that answered, where it is not the target's.
    The folder is built under a hidden name beside its
    place, synced, and renamed; folders left there by killed writers are removed. An older bundle is exchanged for it in
    one step where the system can (Linux); elsewhere the old one is moved away first, and for that moment there is none.
    Raises OutputError where it cannot be written, and where ``folder`` holds something that is no bundle; ValueError
    for a bad name or bad canaries.
    """
    contents = dict(files) | _canaries(canary_inputs_NCHW, canary_outputs)
    for name in contents:
        require_plain_name(name)
    folder = Path(folder)
    try:
        _require_replaceable(folder, contents)
        with building(folder) as temporary:
            manifest = Manifest(
                model=model,
                target=target,
                model_file=model_file,
                files=tuple(put(temporary, name, contents[name]) for name in sorted(contents)),
                canaries=CanaryFiles(inputs=CANARY_INPUTS, outputs=CANARY_OUTPUTS, images=len(canary_inputs_NCHW)),
                environment=environment,
                versions=dict(versions),
                policy=_plain(policy),
                verdict=_plain(verdict),
                preprocess=_plain(preprocess),
                engine=engine,
                answered_by=answered_by,
            )
            text = to_json(manifest).encode()
            with synced(temporary / MANIFEST) as target_file:
                target_file.write(text)
            sync_folders(temporary)
            move_into_place(temporary, folder)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise OutputError(
            f"cannot write the bundle {folder} ({error.strerror or error}{where}); "
            "choose a folder that you may write to, with free space"
        ) from error
    return from_json(Manifest, text, str(folder / MANIFEST))


def _canaries(inputs: NDArray[np.float32], outputs: NDArray[np.float32]) -> dict[str, bytes]:
    if inputs.dtype != np.float32 or inputs.ndim != 4 or outputs.dtype != np.float32 or outputs.ndim != 2:
        raise ValueError(
            f"canaries are float32 [N, C, H, W] and [N, numbers], not {inputs.dtype} {inputs.shape} "
            f"and {outputs.dtype} {outputs.shape}"
        )
    if len(inputs) != len(outputs) or not len(inputs):
        raise ValueError(f"{len(inputs)} canary inputs need as many outputs, at least one; found {len(outputs)}")
    if not (np.isfinite(inputs).all() and np.isfinite(outputs).all()):
        raise ValueError("a canary input or output is not finite")
    return {CANARY_INPUTS: _npy(inputs), CANARY_OUTPUTS: _npy(outputs)}


def _npy(array: NDArray[np.float32]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _plain(value: Any) -> Any:
    return to_dict(value) if dataclasses.is_dataclass(value) else value


def _require_replaceable(folder: Path, contents: Collection[str]) -> None:
    """Only a bundle, an empty folder or nothing may be replaced; never somebody's other files."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder} is not a folder; choose another place for the bundle")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / MANIFEST).is_file():
        raise OutputError(
            f"{folder} holds files but no {MANIFEST}, so it is no bundle to replace; choose another folder"
        )
    try:
        listed = {file.name for file in load_manifest(folder).files}
    except BundleRefused:  # damaged, and then replaced where every file bears a name of a bundle
        listed = set()
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    if others := sorted(files - listed - {*contents, MANIFEST, SIGNATURE}):
        raise OutputError(
            f"{folder} holds {plain(others[0], 60)!r}, which no bundle wrote; move it away, or choose another folder"
        )
