"""Whose code is imported: modules that the user named, on the command line, in a configuration or in Python.

The settings of a finished build name modules too, and its folder may come from anybody. They are imported only where
the user named the same module, of the same file, to an earlier build; that is recorded in the user's cache. ``--trust``
records it too.
"""

import contextlib
import importlib.machinery
import os
import sys
from dataclasses import dataclass, field
from typing import Literal

from limpq_deploy.calibration.errors import CacheRefused, LimpqError, OutputError
from limpq_deploy.calibration.factories import is_factory_name
from limpq_deploy.calibration.files import cache_folder, keep, kept_bytes
from limpq_deploy.calibration.in_memory import in_memory
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.calibration.records import from_json, to_json

FILE = "trusted.json"


class NotTrusted(LimpqError):
    """A module that nobody named would be imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """``modules``: by name as ``package.module:factory``, the files that its package was found in."""

    modules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    format: Literal["limpq.trusted/1"] = field(default="limpq.trusted/1")


def trust(*names: str) -> None:
    """Record that the user named these; of names of other forms nothing is. A cache that cannot be used keeps
    nothing."""
    with contextlib.suppress(CacheRefused, OutputError):
        known = _load()
        modules = dict(known.modules)
        for name in filter(_imported, names):
            modules[name] = tuple(sorted({*modules.get(name, ()), package_file(name)}))
        if modules != known.modules:
            keep(cache_folder() / FILE, to_json(Trusted(modules=modules)).encode())


def require_trusted(names: tuple[str, ...], origin: str) -> None:
    """Raise NotTrusted for the first module that the user never named. ``origin``: the file that names it."""
    for name in filter(_imported, names):
        file = package_file(name)
        if file not in _load().modules.get(name, ()):
            raise NotTrusted(
                f"{plain(origin)} names {plain(name, 60)!r}, code of {plain(file, 80)} that you never named yourself, "
                "so it is not imported; read that file, and give --trust if it may run"
            )


def _imported(name: str) -> bool:
    """Whether code is imported for a name."""
    return is_factory_name(name) and not in_memory(name)


def package_file(name: str) -> str:
    """The file (or folders) that the package of ``package.module:factory`` would be imported from. Nothing is
    imported."""
    top = name.partition(":")[0].partition(".")[0]
    try:
        found = importlib.machinery.PathFinder.find_spec(top, [*sys.path, os.getcwd()])
    except (ImportError, OSError, ValueError):
        found = None
    if found is None:
        return "built into Python" if top in sys.builtin_module_names else "no file"
    return os.path.realpath(found.origin) if found.origin else ", ".join(found.submodule_search_locations or ())


def _load() -> Trusted:
    path = cache_folder() / FILE
    data = kept_bytes(path)
    return Trusted() if data is None else from_json(Trusted, data, str(path))
