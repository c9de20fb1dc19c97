"""The name that somebody most likely meant."""

import difflib
from collections.abc import Iterable

LIKE = 0.6
"""Share of letters in common from which a name is near enough, as `difflib` counts them."""


def did_you_mean(name: str, known: Iterable[str], *, most: int = 2) -> str:
    """``; did you mean 'like'?``, or nothing where no known name is near. Dashes count as underscores."""
    by_form = {_form(one): one for one in known}
    near = [by_form[one] for one in difflib.get_close_matches(_form(name), by_form, n=most, cutoff=LIKE)]
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _form(name: str) -> str:
    return name.lower().replace("-", "_")
