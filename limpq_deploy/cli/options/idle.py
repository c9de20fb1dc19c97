"""Options that have no effect beside others are refused, as settings of a build are."""

from collections.abc import Iterable

import click
from click.core import ParameterSource

from limpq_deploy.calibration.errors import SettingError


def refuse_idle(names: Iterable[str], why: str) -> None:
    """Raise SettingError where options with these parameter names were typed. ``why``: beside what they have no effect,
    and the reason, such as "with --server, which builds no engine"."""
    ctx = click.get_current_context()
    known = {one.name: one.opts[0] for one in ctx.command.params}
    typed = [known[name] for name in names if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if typed:
        has, them = ("has", "it") if len(typed) == 1 else ("have", "them")
        raise SettingError(f"{' and '.join(typed)} {has} no effect {why}; leave {them} away")
