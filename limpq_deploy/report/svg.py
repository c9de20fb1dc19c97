"""SVG elements as safe text. Horizontal positions are percentages, so that a chart fits any width without scaling its
letters; vertical ones are pixels."""

from typing import Any

from markupsafe import Markup, escape

from limpq_deploy.calibration.plain_text import escaped, plain

Attribute = str | float | int

LONGEST = 2000
"""Characters of one text on a page: a name, a sentence."""


def shown(value: Any) -> Any:
    """Text from files as a page may show it: no control characters, no marks that turn the direction of writing, cut.
    All else, and what is markup of ours, as it is."""
    return plain(value, LONGEST) if isinstance(value, str) and not isinstance(value, Markup) else value


def tag(element: str, /, *children: str | Markup, **attributes: Attribute) -> Markup:
    """One element. Text children and attribute values are escaped; ``class_`` gives ``class``, ``x_y`` gives ``x-y``;
    floats keep at most three decimals, so that equal data gives equal bytes."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_attribute(name, value))}"'
        for name, value in attributes.items()
    )
    inner = Markup("").join(escape(shown(child)) for child in children)
    return Markup(f"<{element}{written}>") + inner + Markup(f"</{element}>")


def _attribute(name: str, value: Attribute) -> str:
    """A label is for people, and cut; all else is places and names of ours."""
    if isinstance(value, float):
        return number(value)
    return str(shown(str(value))) if name == "aria_label" else escaped(str(value))


def number(value: float) -> str:
    """At most three decimals, no trailing zeros, no negative zero."""
    text = f"{value:.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def share(value: float) -> str:
    """A share of 1 as a percentage for an attribute."""
    return f"{number(100 * value)}%"


def group(*children: Markup) -> Markup:
    return Markup("").join(children)


def image(label: str, height: float, *children: Markup, class_: str = "track") -> Markup:
    """A root element as wide as its box; ``label`` is what a screen reader says."""
    return tag("svg", *children, class_=class_, role="img", aria_label=label, width="100%", height=height)


def box(x: float, y: float, width: float, height: float, class_: str, **more: Attribute) -> Markup:
    """A rectangle; ``x`` and ``width`` are shares of 1."""
    return tag("rect", x=share(x), y=y, width=share(max(0.0, width)), height=max(0.0, height), class_=class_, **more)


def vertical(x: float, y1: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=share(x), x2=share(x), y1=y1, y2=y2, class_=class_)


def horizontal(y: float, class_: str, x1: float = 0.0, x2: float = 1.0) -> Markup:
    return tag("line", x1=share(x1), x2=share(x2), y1=y, y2=y, class_=class_)


def dot(x: float, y: float, radius: float, class_: str) -> Markup:
    return tag("circle", cx=share(x), cy=y, r=radius, class_=class_)


def words(x: float, y: float, content: str, class_: str, anchor: str = "middle") -> Markup:
    return tag("text", content, x=share(x), y=y, class_=class_, text_anchor=anchor)
