"""A picture of fixed size as a list of shapes, written as a self-contained SVG file or painted as a PNG by Pillow."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from markupsafe import Markup

from limpq_deploy.report import svg

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Point = tuple[float, float]
"""(x, y) in pixels, y downwards."""

OVERSAMPLING = 4
"""A PNG is painted this many times larger, then reduced: Pillow's own lines are jagged."""

PNG_SCALE = 2
"""A PNG has this many pixels per pixel of the drawing."""

RING = 1.6
"""Thickness of a hollow dot."""

RIM = 1.2
"""Paper around a full dot, so that neighbours stay apart."""

FONTS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif'


@dataclass(frozen=True, slots=True, kw_only=True)
class Ink:
    """A colour by name, on light and on dark paper; ``#rrggbb``."""

    name: str
    light: str
    dark: str


PAPER = Ink(name="paper", light="#ffffff", dark="#141a21")
TEXT = Ink(name="text", light="#18202a", dark="#e4e9ef")
MUTED = Ink(name="muted", light="#566070", dark="#9ba7b4")
LINE = Ink(name="line", light="#dde1e7", dark="#2b343f")
SOFT = Ink(name="soft", light="#eef0f3", dark="#1c242d")
OTHER = Ink(name="other", light="#8a95a3", dark="#7e8a98")
MAIN = Ink(name="main", light="#4a45b8", dark="#a19df7")
BAD = Ink(name="bad", light="#b3211a", dark="#ff8d84")
INKS = (PAPER, TEXT, MUTED, LINE, SOFT, OTHER, MAIN, BAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Joined straight lines, ``width`` pixels thick."""

    points: tuple[Point, ...]
    ink: Ink
    width: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A filled polygon."""

    points: tuple[Point, ...]
    ink: Ink


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A disc with a rim of paper; ``hollow``: a ring. ``hover``: shown under the pointer (SVG only)."""

    at: Point
    radius: float
    ink: Ink
    hollow: bool = False
    hover: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One line of text; ``at`` is its baseline at the anchor. ``upright``: turned a quarter to the left."""

    at: Point
    content: str
    ink: Ink = MUTED
    size: float = 12.0
    anchor: Literal["start", "middle", "end"] = "start"
    bold: bool = False
    upright: bool = False


Shape: TypeAlias = Line | Area | Dot | Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """``shapes`` in painting order. ``label`` is what a screen reader says."""

    width: int
    height: int
    label: str
    shapes: tuple[Shape, ...]


def to_svg(drawing: Drawing) -> str:
    """A file that needs nothing else, with a dark variant for who prefers one. Equal drawings give equal bytes."""
    rules = [
        f"text{{font-family:{FONTS};font-variant-numeric:tabular-nums}}",
        *(f".{ink.name}{{color:{ink.light}}}" for ink in INKS),
        "@media(prefers-color-scheme:dark){" + "".join(f".{ink.name}{{color:{ink.dark}}}" for ink in INKS) + "}",
    ]
    style = Markup("<style>") + Markup("".join(rules)) + Markup("</style>")
    everything = (rectangle(0, 0, drawing.width, drawing.height, PAPER), *drawing.shapes)
    root = svg.tag(
        "svg",
        style,
        *(_element(shape) for shape in everything),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {drawing.width} {drawing.height}",
        width=drawing.width,
        height=drawing.height,
        role="img",
        aria_label=drawing.label,
    )
    return f"{root}\n"


def to_inline(drawing: Drawing) -> Markup:
    """An element for a page, as wide as its box; the page's style has its colours (``.drawing .main`` and so on)."""
    return svg.tag(
        "svg",
        *(_element(shape) for shape in drawing.shapes),
        class_="drawing",
        viewBox=f"0 0 {drawing.width} {drawing.height}",
        width="100%",
        role="img",
        aria_label=drawing.label,
    )


def to_png(drawing: Drawing) -> bytes:
    """The light variant, `PNG_SCALE` times as large."""
    from PIL import Image, ImageDraw

    factor = PNG_SCALE * OVERSAMPLING
    large = Image.new("RGB", (drawing.width * factor, drawing.height * factor), PAPER.light)
    painter = ImageDraw.Draw(large)
    for shape in drawing.shapes:
        if not isinstance(shape, Text):
            _paint(painter, shape, factor)
    image = large.resize((drawing.width * PNG_SCALE, drawing.height * PNG_SCALE), Image.Resampling.BOX)
    for shape in drawing.shapes:
        if isinstance(shape, Text):
            _write(image, shape)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def rectangle(x: float, y: float, width: float, height: float, ink: Ink) -> Area:
    """A filled one; (x, y) is its upper left corner."""
    return Area(points=((x, y), (x + width, y), (x + width, y + height), (x, y + height)), ink=ink)


def _element(shape: Shape) -> Markup:
    if isinstance(shape, Line):
        return svg.tag(
            "polyline",
            points=_listed(shape.points),
            class_=shape.ink.name,
            fill="none",
            stroke="currentColor",
            stroke_width=shape.width,
            stroke_linejoin="round",
        )
    if isinstance(shape, Area):
        return svg.tag("polygon", points=_listed(shape.points), class_=shape.ink.name, fill="currentColor")
    if isinstance(shape, Dot):
        title = (svg.tag("title", shape.hover),) if shape.hover else ()
        ring: dict[str, svg.Attribute] = {"stroke": "currentColor", "stroke_width": RING, "fill": "none"}
        full: dict[str, svg.Attribute] = {"fill": "currentColor"}
        look = ring if shape.hollow else full
        marks = [_circle(shape.at, shape.radius, shape.ink, look)]
        if not shape.hollow:
            marks.insert(0, _circle(shape.at, shape.radius + RIM, PAPER, full))
        return svg.tag("g", *title, *marks)
    x, y = shape.at
    turned = {"transform": f"rotate(-90 {svg.number(x)} {svg.number(y)})"} if shape.upright else {}
    return svg.tag(
        "text",
        shape.content,
        x=x,
        y=y,
        class_=shape.ink.name,
        fill="currentColor",
        font_size=shape.size,
        font_weight=650 if shape.bold else 400,
        text_anchor=shape.anchor,
        **turned,
    )


def _circle(at: Point, radius: float, ink: Ink, look: dict[str, svg.Attribute]) -> Markup:
    return svg.tag("circle", cx=at[0], cy=at[1], r=radius, class_=ink.name, **look)


def _listed(points: Sequence[Point]) -> str:
    return " ".join(f"{svg.number(x)},{svg.number(y)}" for x, y in points)


def _paint(painter: "ImageDraw", shape: Line | Area | Dot, factor: int) -> None:
    if isinstance(shape, Area):
        painter.polygon([(x * factor, y * factor) for x, y in shape.points], fill=shape.ink.light)
    elif isinstance(shape, Line):
        width = max(1, round(shape.width * factor))
        points = [(x * factor, y * factor) for x, y in shape.points]
        painter.line(points, fill=shape.ink.light, width=width, joint="curve")
    else:
        for radius, colour in _discs(shape):
            box = [(value + sign * radius) * factor for sign in (-1, 1) for value in shape.at]
            if colour is None:
                painter.ellipse(box, outline=shape.ink.light, width=round(RING * factor))
            else:
                painter.ellipse(box, fill=colour)


def _discs(shape: Dot) -> list[tuple[float, str | None]]:
    """(radius, fill) of a dot's circles, outermost first; None for a ring."""
    if shape.hollow:
        return [(shape.radius + RING / 2, None)]
    return [(shape.radius + RIM, PAPER.light), (shape.radius, shape.ink.light)]


def _write(image: "Image", shape: Text) -> None:
    """Text goes onto the reduced image, where the font's own smoothing is best; bold is a stroke of half a pixel."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(shape.size * PNG_SCALE)
    x, y = (value * PNG_SCALE for value in shape.at)
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
    stroke = 0.5 if shape.bold else 0
    if not shape.upright:
        painter = ImageDraw.Draw(image)
        painter.text((x, y), shape.content, shape.ink.light, font, anchor, stroke_width=stroke)
        return
    length = round(font.getlength(shape.content)) + 2 * PNG_SCALE
    height = round(2 * shape.size * PNG_SCALE)
    mask = Image.new("L", (length, height))
    ImageDraw.Draw(mask).text((0, height * 0.75), shape.content, 255, font, "ls", stroke_width=stroke)
    mask = mask.rotate(90, expand=True)
    below = {"start": 0.0, "middle": 0.5, "end": 1.0}[shape.anchor]
    corner = (round(x - height * 0.75), round(y - length * (1 - below)))
    image.paste(Image.new("RGB", mask.size, shape.ink.light), corner, mask)
