"""Ed25519 signatures of manifests (RFC 8032, through ``cryptography``, the extra ``serve``).

What is signed is ``CONTEXT``, the time of signing and the bytes of manifest.json, which holds size and SHA-256 of every
other file. ``manifest.sig`` is that time (nanoseconds since 1970, 8 bytes, most significant first) and the signature's
64 bytes, and nothing else, so no bit of it can change unnoticed. Keys are files of their own in the PEM forms that
``openssl genpkey -algorithm ed25519`` writes too. A public key found in a bundle would prove nothing: it is always
given from outside. An older bundle in the place of a newer one is rightly signed, and refused by its time (`accepted`).
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.errors import LimpqError, MissingExtra, OutputError
from limpq_deploy.calibration.files import write_bytes
from limpq_deploy.export.ship.accepted import accept, newest_accepted
from limpq_deploy.export.ship.manifest import MANIFEST, SIGNATURE

CONTEXT = b"limpq.manifest/2 signed\0"
TIME_BYTES = 8
SIGNATURE_BYTES = TIME_BYTES + 64
MAX_KEY_BYTES = 4096


class KeyRefused(LimpqError):
    """A key file is missing, damaged, readable by others, or of another kind."""


def write_key_pair(private: Path, public: Path) -> None:
    """Make a new key pair; the private file (PKCS8, not encrypted) is readable by its owner alone.

    Raises OutputError where either file exists or cannot be written; a key is never replaced.
    """
    serialization, ed25519 = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    known = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    _require_free(private, public)
    _write_new(public, known, 0o644)
    _write_new(private, secret, 0o600)


def sign_bytes(manifest: bytes, private: Path, folder: Path) -> bytes:
    """Signature of the manifest of a folder, newer than any that was accepted there before, whatever the clock says.

    Raises KeyRefused for a file that is no Ed25519 private key or that others can read.
    """
    key, fingerprint = _private_key(private)
    now = max(time.time_ns(), newest_accepted(folder, fingerprint) + 1).to_bytes(TIME_BYTES, "big")
    return now + bytes(key.sign(CONTEXT + now + manifest))


def remember_signed(folder: Path, private: Path, signature: bytes) -> None:
    """Once a signature stands in a folder: what was signed before is not accepted there any more."""
    accept(folder, _private_key(private)[1], signed_at(signature))


def _private_key(private: Path) -> tuple[Any, str]:
    """A key and the fingerprint of its public half."""
    serialization, ed25519 = _cryptography()
    data = _read_key(private)
    if private.stat().st_mode & 0o077:
        raise KeyRefused(f"private key {private} can be read by others; run: chmod 600 {private}")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise KeyRefused(f"{private} is no unencrypted PEM private key; make one with limpq-deploy keygen") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise KeyRefused(f"{private} is a key of another kind; expected Ed25519, made with limpq-deploy keygen")
    return key, _fingerprint(serialization, key.public_key())


def sign_bundle(folder: Path, private: Path) -> None:
    """Sign the manifest of a bundle whose files were checked against it. Raises what `sign_bytes` raises, and OSError
    where the signature cannot be written."""
    manifest = (folder / MANIFEST).read_bytes()
    signature = sign_bytes(manifest, private, folder)
    write_bytes(folder / SIGNATURE, signature)
    remember_signed(folder, private, signature)


def is_signed_by(manifest: bytes, signature: bytes, public: Path) -> bool:
    """Whether the holder of the key signed these bytes. Raises KeyRefused for a file that is no Ed25519 public key."""
    _cryptography()
    from cryptography.exceptions import InvalidSignature

    key = _public_key(public)
    try:
        key.verify(signature[TIME_BYTES:], CONTEXT + signature[:TIME_BYTES] + manifest)
    except InvalidSignature:
        return False
    return True


def signed_at(signature: bytes) -> int:
    """When a signature was made, in nanoseconds since 1970."""
    return int.from_bytes(signature[:TIME_BYTES], "big")


def fingerprint_of(public: Path) -> str:
    """SHA-256 of a public key, in hex. Raises KeyRefused."""
    return _fingerprint(_cryptography()[0], _public_key(public))


def _fingerprint(serialization: Any, key: Any) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()


def _public_key(public: Path) -> Any:
    serialization, ed25519 = _cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = serialization.load_pem_public_key(_read_key(public))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyRefused(f"{public} is no PEM public key; give the .pub file that limpq-deploy keygen wrote") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise KeyRefused(f"{public} is a key of another kind; expected an Ed25519 public key")
    return key


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingExtra(
            "signatures need cryptography, which is not installed; run: pip install 'limpq-deploy[serve]'"
        ) from error
    return serialization, ed25519


def _read_key(path: Path) -> bytes:
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise KeyRefused(f"cannot read key {path}: {error.strerror or error}; give an existing file") from error
    if len(data) > MAX_KEY_BYTES:
        raise KeyRefused(f"{path} has more than {MAX_KEY_BYTES} bytes, so it is no Ed25519 key; give another file")
    return data


def _require_free(*paths: Path) -> None:
    for path in paths:
        if os.path.lexists(path):
            raise OutputError(f"{path} exists; a key is never replaced, choose another name")


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
