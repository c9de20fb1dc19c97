"""Factories of the user, named ``package.module:factory`` on the command line."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.calibration.foreign import sentence_of
from limpq_deploy.calibration.in_memory import given_named, in_memory


def is_factory_name(name: str) -> bool:
    """Whether a name has the form ``package.module:factory``."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def load_factory(name: str, error: type[LimpqError]) -> Callable[..., Any]:
    """Import ``package.module:factory`` and return the factory.

    Modules in the current folder are found too, after the installed ones. Raises ``error`` when there is no such
    module, when importing it raises, or when it has no such callable. ``in_memory:NAME`` is an object that was given.
    """
    if in_memory(name):
        return given_named(name, error)
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{module_name}.".startswith(f"{missing.name}."):
            raise _import_failed(name, missing, error) from missing
        raise error(
            f"there is no module {missing.name!r} for {name!r}; expected an installed module or one in this folder"
        ) from missing
    except LimpqError:
        raise
    except (Exception, SystemExit) as inside:
        raise _import_failed(name, inside, error) from inside
    factory = getattr(module, attribute, None)
    if not callable(factory):
        found = "nothing of that name" if factory is None else f"a {type(factory).__name__}"
        raise error(f"module {module_name!r} has {found} for {name!r}; expected a function {attribute!r}")
    return factory


def call_factory(name: str, factory: Callable[..., Any], error: type[LimpqError], *arguments: Any) -> Any:
    """What a user's factory returns. Raises ``error`` with the line and the exception when it raises one itself."""
    try:
        return factory(*arguments)
    except LimpqError:
        raise
    except (Exception, SystemExit) as inside:
        raise error(
            f"{name!r} raised {sentence_of(inside)}; mend the factory, or see all of it with --debug"
        ) from inside


def _import_failed(name: str, inside: BaseException, error: type[LimpqError]) -> LimpqError:
    return error(
        f"importing {name.partition(':')[0]!r} raised {sentence_of(inside)}; mend the module, or see all of it "
        "with --debug"
    )
