"""Factories of the user, named ``package.module:factory`` on the command line."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from limpq_deploy.calibration.errors import LimpqError


def is_factory_name(name: str) -> bool:
    """Whether a name has the form ``package.module:factory``."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def load_factory(name: str, error: type[LimpqError]) -> Callable[..., Any]:
    """Import ``package.module:factory`` and return the factory.

    Modules in the current folder are found too, after the installed ones. Raises ``error`` when there is no such module
    or it has no such callable; an exception inside the user's module passes as it is, with its traceback.
    """
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{module_name}.".startswith(f"{missing.name}."):
            raise
        raise error(
            f"there is no module {missing.name!r} for {name!r}; expected an installed module or one in this folder"
        ) from missing
    factory = getattr(module, attribute, None)
    if not callable(factory):
        found = "nothing of that name" if factory is None else f"a {type(factory).__name__}"
        raise error(f"module {module_name!r} has {found} for {name!r}; expected a function {attribute!r}")
    return factory
