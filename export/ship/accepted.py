"""Which signed bundle was the newest in a place, so that an older one, though rightly signed, is not taken there again.

Kept in the user's own cache, by key and folder. A machine that never saw the newer bundle cannot know of it: the time
of signing stands in the answer of `limpq-deploy verify`.
"""

import contextlib
import datetime
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from limpq_deploy.calibration.errors import OutputError
from limpq_deploy.calibration.files import cache_folder, keep, kept_bytes
from limpq_deploy.calibration.records import from_json, to_json

FILE = "accepted.json"
MOST = 10_000
"""Places that are remembered; the ones with the oldest bundles go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """``newest``: when the newest bundle of a place was signed, in nanoseconds since 1970, by `_place`."""

    newest: dict[str, int] = field(default_factory=dict)
    format: Literal["limpq.accepted/1"] = field(default="limpq.accepted/1")


def newest_accepted(folder: Path, key: str) -> int:
    """When the newest bundle of this place and key was signed; 0 where none is known. ``key``: its fingerprint.

    Raises CacheRefused where the record is not what was kept.
    """
    return _load().newest.get(_place(folder, key), 0)


def accept(folder: Path, key: str, signed_ns: int) -> None:
    """Remember a bundle, unless a newer one is known. A cache that cannot be written remembers nothing."""
    known = _load().newest
    place = _place(folder, key)
    if known.get(place, 0) >= signed_ns:
        return
    newest = dict(sorted({**known, place: signed_ns}.items(), key=lambda one: one[1])[-MOST:])
    with contextlib.suppress(OutputError):
        keep(cache_folder() / FILE, to_json(Accepted(newest=newest)).encode())


def time_text(signed_ns: int) -> str:
    """``2026-11-29 08:31:05 UTC``."""
    try:
        when = datetime.datetime.fromtimestamp(signed_ns // 10**9, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{signed_ns} ns after 1970"
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")


def _load() -> Accepted:
    path = cache_folder() / FILE
    data = kept_bytes(path)
    return Accepted() if data is None else from_json(Accepted, data, str(path))


def _place(folder: Path, key: str) -> str:
    return f"{key} {os.path.realpath(folder)}"
