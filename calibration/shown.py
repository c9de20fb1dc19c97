"""How a record looks in a notebook: a table, a pandas frame, a picture."""

from abc import ABC, abstractmethod
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.errors import MissingExtra
from limpq_deploy.calibration.files import write_text
from limpq_deploy.calibration.records import write_record

ROWS = 200
"""Rows of a table in a notebook, at most; `Shown.rows` gives all."""


class Picture:
    """An SVG drawing: shown by notebooks, kept with `save`."""

    def __init__(self, svg: str) -> None:
        self.svg = svg

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> Path:
        """Write the drawing to a file; its name should end in ``.svg``."""
        write_text(Path(path), self.svg)
        return Path(path)


class Shown(ABC):
    """A record that is a table: of layers, of points, of checks."""

    __slots__ = ()

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """The table as plain dicts, one for each row; numbers in the units that the column names say."""

    def to_frame(self) -> Any:
        """`rows` as a ``pandas.DataFrame``. Raises MissingExtra where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise MissingExtra("a frame needs pandas, which is not installed; run: pip install pandas") from error
        return pandas.DataFrame(self.rows())

    def plot(self) -> Picture:
        """A drawing of the table, which notebooks show and ``save`` writes. Needs no plotting library."""
        drawn: Picture = import_module("limpq_deploy.api.pictures").picture_of(self)
        return drawn

    def _repr_html_(self) -> str:
        rows = self.rows()
        names = list(dict.fromkeys(name for row in rows for name in row))
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(_text(row.get(name)))}</td>' for name in names)}</tr>" for row in rows[:ROWS]
        )
        more = f"<caption>the first {ROWS} of {len(rows)} rows</caption>" if len(rows) > ROWS else ""
        title = f"<p>{escape(self._title())}</p>"
        return f"{title}<table>{more}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _title(self) -> str:
        return type(self).__name__


class Saved(Shown):
    """A table that is a file of its own, JSON with a ``format``."""

    __slots__ = ()

    def save(self, path: str | Path) -> Path:
        """Write the record; commands read that file."""
        write_record(self, Path(path))
        return Path(path)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
