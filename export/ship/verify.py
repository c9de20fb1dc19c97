"""A bundle checked before anything in it is opened, then asked the questions whose answers it carries."""

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from limpq_deploy.calibration.errors import LimpqError, RecordError
from limpq_deploy.calibration.records import from_json
from limpq_deploy.export.records.environment import Environment, read_environment
from limpq_deploy.export.runtimes.base import every_output, in_rows
from limpq_deploy.export.ship.accepted import accept, newest_accepted, time_text
from limpq_deploy.export.ship.manifest import MANIFEST, SIGNATURE, BundleFile, Manifest
from limpq_deploy.export.ship.signature import SIGNATURE_BYTES, fingerprint_of, is_signed_by, signed_at
from limpq_deploy.export.ship.triton.served_io import LABELS

MAX_MANIFEST_BYTES = 64 * 2**20


class BundleRefused(LimpqError):
    """A bundle is not what its manifest says; ``problems`` has every finding, the sentence the first."""

    def __init__(self, folder: Path, problems: tuple[str, ...]) -> None:
        self.problems = problems
        more = f" (and {len(problems) - 1} more findings)" if len(problems) > 1 else ""
        super().__init__(f"bundle {folder} is refused: {problems[0]}{more}; fetch it again or build it again")


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryReport:
    """Answers of this machine against the bundle's.

    ``bit_equal``: every float32 is the same, which is what passes. The integer graph promises it on every CPU whose
    kernels neither saturate nor round differently; nothing is tolerated, ``note`` says what a difference may come from.
    ``differing``: numbers that are not equal, of ``logits``, which all outputs have. ``top1_changed``: images whose
    first class changed; None where the answers are no logits.
    """

    images: int
    bit_equal: bool
    logits: int
    differing: int
    max_abs_difference: float
    top1_changed: int | None
    same_cpu_kind: bool
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """A bundle that is as its manifest says: ``files`` and ``bytes`` checked. ``signed``: whether a signature is there;
    ``signature_checked``: whether it was checked, with a key from outside; ``signed_at``: when it was made, then.
    ``canaries``: None when not replayed."""

    files: int
    bytes: int
    signed: bool = False
    signature_checked: bool = False
    signed_at: str | None = None
    canaries: CanaryReport | None = None
    format: Literal["limpq.verify/1"] = field(default="limpq.verify/1")


class CanarySession(Protocol):
    """What a runtime's session does."""

    def run(self, images: NDArray[np.float32], /) -> Any: ...


def load_manifest(folder: Path, public_key: Path | None = None) -> Manifest:
    """Read and check the manifest alone; with ``public_key`` its signature first, on the very bytes that are parsed.

    Raises BundleRefused when it is missing, no plain file, too large, damaged, of another format, lists unsafe names,
    or (with a key) is not signed by that key; KeyRefused for a bad key file.
    """
    return _load_signed(Path(folder), public_key)[0]


def _load_signed(folder: Path, public_key: Path | None) -> tuple[Manifest, int | None]:
    """The manifest, and when it was signed where a key is given."""
    try:
        data = _read_plain(folder / MANIFEST, MAX_MANIFEST_BYTES)
        signed_ns = None if public_key is None else _require_signature(folder, data, public_key)
        return from_json(Manifest, data, MANIFEST), signed_ns
    except RecordError as error:
        raise BundleRefused(folder, (str(error),)) from error
    except OSError as error:
        raise BundleRefused(folder, (f"{MANIFEST} cannot be read ({error.strerror or error})",)) from error


def _require_signature(folder: Path, manifest: bytes, public_key: Path) -> int:
    """When it was signed, in nanoseconds since 1970; refused where a newer one was accepted here."""
    try:
        signature = _read_plain(folder / SIGNATURE, SIGNATURE_BYTES)
    except FileNotFoundError as error:
        raise BundleRefused(folder, (f"it is not signed: {SIGNATURE} is missing",)) from error
    except OSError as error:
        raise BundleRefused(folder, (f"{SIGNATURE} cannot be read ({error.strerror or error})",)) from error
    if len(signature) != SIGNATURE_BYTES:
        raise BundleRefused(folder, (f"{SIGNATURE} has {len(signature)} bytes; a signature has {SIGNATURE_BYTES}",))
    if not is_signed_by(manifest, signature, public_key):
        raise BundleRefused(
            folder, (f"{MANIFEST} or {SIGNATURE} was altered, or another key than {public_key} signed",)
        )
    signed_ns, newest = signed_at(signature), newest_accepted(folder, fingerprint_of(public_key))
    if signed_ns < newest:
        raise BundleRefused(
            folder,
            (
                f"it was signed at {time_text(signed_ns)}, and one signed at {time_text(newest)} was accepted here "
                "before: an older bundle was put back (sign it again where that was meant)",
            ),
        )
    return signed_ns


def verify_bundle(folder: Path, public_key: Path | None = None) -> VerifyReport:
    """Check names, presence, sizes and SHA-256 of every file; only the manifest is parsed.

    ``public_key``: a file from outside the bundle; the manifest must be signed by it. Without one a signature is not
    looked at. With one, a bundle older than one that was accepted in this folder before is refused (`accepted`).
    Raises BundleRefused, naming each file that is missing, truncated, altered, not listed, or no plain file
    (a link, a device). Links are never followed. A bundle altered after this check is not protected by it.
    """
    folder = Path(folder)
    if public_key is not None and Path(public_key).resolve().is_relative_to(folder.resolve()):
        raise BundleRefused(folder, (f"the key {public_key} lies in the bundle itself and proves nothing",))
    manifest, signed_ns = _load_signed(folder, public_key)
    listed = {file.name: file for file in manifest.files}
    found = set()
    problems = []
    for name, entry in _walk(folder):
        if entry.is_symlink() or not entry.is_file(follow_symlinks=False):
            problems.append(f"{name!r} is {'a symbolic link' if entry.is_symlink() else 'no plain file'}")
        elif name not in (MANIFEST, SIGNATURE) and name not in listed:
            problems.append(f"{name!r} is not listed in {MANIFEST}{_danger(name)}")
        found.add(name)
    for name, file in listed.items():
        if name not in found:
            problems.append(f"{name!r} is listed in {MANIFEST} but missing")
        elif problem := _content_problem(folder / name, file):
            problems.append(problem)
    if problems:
        raise BundleRefused(folder, tuple(problems))
    if public_key is not None and signed_ns is not None:
        accept(folder, fingerprint_of(public_key), signed_ns)
    return VerifyReport(
        files=len(listed),
        bytes=sum(file.size for file in listed.values()),
        signed=SIGNATURE in found,
        signature_checked=public_key is not None,
        signed_at=time_text(signed_ns) if signed_ns is not None else None,
    )


def replay_canaries(
    folder: Path,
    load: Callable[[Path], CanarySession],
    *,
    environment: Environment | None = None,
    public_key: Path | None = None,
) -> CanaryReport:
    """Verify the bundle (with ``public_key`` its signature), then run its canaries and compare the answers bit for bit.

    ``load`` opens the model file with a runtime. All inputs run as one batch, as when the answers were made. Raises
    BundleRefused as `verify_bundle`, for canaries that do not fit the manifest, and for answers that are not finite or
    of another shape.
    """
    folder = Path(folder)
    verify_bundle(folder, public_key)
    manifest = load_manifest(folder, public_key)
    here = environment or read_environment()
    inputs, expected = load_canaries(folder, manifest)
    given = every_output(load(folder / manifest.model_file))(inputs)
    answers = np.ascontiguousarray(in_rows(given))
    if answers.shape != expected.shape or answers.dtype != expected.dtype:
        raise BundleRefused(
            folder,
            (
                f"the model answers {answers.dtype} {list(answers.shape)} to the canaries; "
                f"expected {expected.dtype} {list(expected.shape)}",
            ),
        )
    if not np.isfinite(answers).all():
        raise BundleRefused(folder, ("the model's answers to the canaries are not finite",))
    differing = answers.view(np.uint32) != expected.view(np.uint32)
    same_kind = here.same_cpu_kind(manifest.environment)
    return CanaryReport(
        images=len(inputs),
        bit_equal=not differing.any(),
        logits=answers.size,
        differing=int(differing.sum()),
        max_abs_difference=float(np.abs(answers.astype(np.float64) - expected).max()),
        top1_changed=int((answers.argmax(1) != expected.argmax(1)).sum()) if _are_logits(given, manifest) else None,
        same_cpu_kind=same_kind,
        note=_note(bool(differing.any()), same_kind, manifest.environment, here),
    )


def _are_logits(outputs: Any, manifest: Manifest) -> bool:
    """Whether there is one vector for each image, and names for its numbers."""
    each = outputs if isinstance(outputs, tuple) else (outputs,)
    labelled = any(file.name == LABELS and file.size for file in manifest.files)
    return labelled and len(each) == 1 and each[0].ndim == 2


def load_canaries(folder: Path, manifest: Manifest) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Canary inputs [N, C, H, W] and expected outputs [N, numbers], see `in_rows`. Raises BundleRefused where they are
    not those of the manifest."""
    inputs = _load_canary(folder, manifest, manifest.canaries.inputs, ndim=4)
    return inputs, _load_canary(folder, manifest, manifest.canaries.outputs, ndim=2)


def read_listed(folder: Path, file: BundleFile) -> bytes:
    """A listed file's bytes; its digest is checked on these very bytes. Raises BundleRefused."""
    try:
        data = _read_plain(folder / file.name, file.size)
    except OSError as error:
        raise BundleRefused(folder, (f"{file.name!r} cannot be read ({error.strerror or error})",)) from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise BundleRefused(folder, (f"{file.name!r} was altered: its SHA-256 is not the one in {MANIFEST}",))
    return data


def _note(differs: bool, same_kind: bool, there: Environment, here: Environment) -> str:
    if not differs:
        return "every number is equal, bit for bit"
    changed = sorted(
        name for name in there.libraries if name in here.libraries and there.libraries[name] != here.libraries[name]
    )
    if changed:
        versions = ", ".join(f"{name} {there.libraries[name]} -> {here.libraries[name]}" for name in changed)
        return f"the answers were made with other versions ({versions}): install those and replay"
    if not same_kind:
        return (
            f"the answers were made on {there.cpu}, this is {here.cpu}: its kernels may saturate or round differently; "
            "run the parity check on this machine before serving from it"
        )
    return "CPU kind and versions are those of the answers: do not serve this bundle"


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below ``folder`` that is not itself a folder, by name relative to it; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), name + "/")
            else:
                yield name, entry


def _danger(name: str) -> str:
    """What makes an unlisted file worse than it looks."""
    if "__pycache__" not in name.split("/"):
        return ""
    return " (compiled Python, which would run in place of the source that is listed)"


def _content_problem(path: Path, file: BundleFile) -> str | None:
    try:
        with _open_plain(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != file.size:
                return f"{file.name!r} has {size} bytes; {MANIFEST} says {file.size}"
            if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
                return f"{file.name!r} was altered: its SHA-256 is not the one in {MANIFEST}"
    except OSError as error:
        return f"{file.name!r} cannot be read ({error.strerror or error})"
    return None


def _load_canary(folder: Path, manifest: Manifest, name: str, *, ndim: int) -> NDArray[np.float32]:
    """A float32 array from a listed file; its digest is checked on the very bytes that are parsed."""
    file = next(file for file in manifest.files if file.name == name)
    data = read_listed(folder, file)
    try:
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError) as error:  # of its header
        raise BundleRefused(folder, (f"{name!r} is no plain array ({error})",)) from error
    if array.dtype != np.float32 or array.ndim != ndim or len(array) != manifest.canaries.images:
        wanted = f"{manifest.canaries.images} float32 canaries with {ndim} axes"
        raise BundleRefused(folder, (f"{name!r} holds {array.dtype} {list(array.shape)}; expected {wanted}",))
    return np.ascontiguousarray(array)


def _read_plain(path: Path, max_bytes: int) -> bytes:
    with _open_plain(path) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(f"more than {max_bytes} bytes")
    return data


def _open_plain(path: Path) -> io.BufferedReader:
    """Open a plain file for reading; links, pipes and devices are refused without being opened for real."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("no plain file")
    return os.fdopen(descriptor, "rb")
