"""Draw docs/pictures/*.svg, the pictures of the concepts page: python docs/draw_pictures.py"""

from pathlib import Path

from limpq_deploy.report.drawing import (
    LINE,
    MAIN,
    MUTED,
    OTHER,
    SOFT,
    TEXT,
    Area,
    Dot,
    Drawing,
    Line,
    Shape,
    Text,
    rectangle,
    to_svg,
)

FOLDER = Path(__file__).with_name("pictures")
WIDTH = 720


def card(x: float, y: float, width: float, height: float, *words: str, strong: bool = False) -> list[Shape]:
    """A framed box with lines of text in its middle."""
    corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y))
    first = y + height / 2 + 4 - 8 * (len(words) - 1)
    return [
        rectangle(x, y, width, height, SOFT),
        Line(points=corners, ink=MAIN if strong else OTHER, width=1.6 if strong else 1.0),
        *(
            Text(at=(x + width / 2, first + 16 * row), content=word, ink=TEXT if row == 0 else MUTED, anchor="middle")
            for row, word in enumerate(words)
        ),
    ]


def arrow(x1: float, y1: float, x2: float, y2: float) -> list[Shape]:
    """Right or down."""
    back = (
        ((x2 - 7, y2 - 4), (x2 - 7, y2 + 4))
        if y1 == y2 or x2 - x1 > abs(y2 - y1)
        else ((x2 - 4, y2 - 7), (x2 + 4, y2 - 7))
    )
    return [Line(points=((x1, y1), (x2, y2)), ink=OTHER, width=1.4), Area(points=((x2, y2), *back), ink=OTHER)]


def indicator() -> Drawing:
    shapes: list[Shape] = []
    for row, (bits, steps) in enumerate(((2, 3), (4, 15))):
        y = 60 + 90 * row
        shapes.append(Text(at=(20, y + 5), content=f"{bits} bits", ink=TEXT, bold=True))
        shapes.append(Line(points=((110, y), (690, y)), ink=OTHER))
        for step in range(steps + 1):
            shapes.append(Dot(at=(110 + 580 * step / steps, y), radius=4, ink=MAIN))
        width = 580 / steps
        shapes.append(Line(points=((110, y + 22), (110 + width, y + 22)), ink=MAIN, width=3))
        shapes.append(Text(at=(110 + width + 10, y + 26), content=f"scale: one step, of {steps} in the range"))
    shapes.append(
        Text(at=(20, 24), content="The fewer bits, the larger the step that a layer has to bear", ink=TEXT, bold=True)
    )
    return Drawing(width=WIDTH, height=200, label="Grids of 2 and of 4 bits over one range", shapes=tuple(shapes))


def joint() -> Drawing:
    shapes: list[Shape] = [*card(20, 80, 130, 60, "shared weights", strong=True)]
    for row, name in enumerate(("pass at 2 bits", "pass at 4 bits", "pass at 6 bits")):
        y = 20 + 65 * row
        shapes += arrow(150, 110, 230, y + 25)
        shapes += card(232, y, 190, 50, name, "scales of its own")
        shapes += arrow(422, y + 25, 520, 110)
    shapes += card(522, 80, 180, 60, "sum of the losses", "trains everything", strong=True)
    return Drawing(width=WIDTH, height=220, label="A joint network: one pass for each bit-width", shapes=tuple(shapes))


def program() -> Drawing:
    chosen = (1, 0, 2)
    shapes: list[Shape] = []
    for column, name in enumerate(("layer 1", "layer 2", "layer 3")):
        x = 20 + 150 * column
        shapes.append(Text(at=(x + 60, 24), content=name, ink=TEXT, anchor="middle", bold=True))
        for row, pair in enumerate(("w2a2", "w3a4", "w6a6")):
            shapes += card(x, 38 + 52 * row, 120, 42, pair, strong=chosen[column] == row)
    shapes += [
        Text(at=(490, 76), content="sum of importance: least", ink=TEXT),
        Text(at=(490, 106), content="sum of costs: within the budget", ink=TEXT),
        Text(at=(490, 136), content="one choice a layer, proved best", ink=TEXT),
    ]
    return Drawing(width=WIDTH, height=205, label="One candidate is chosen for each layer", shapes=tuple(shapes))


def pinned() -> Drawing:
    shapes: list[Shape] = []
    for number, (name, bits) in enumerate(
        (("first", "8 bits"), ("conv", "3 bits"), ("conv", "5 bits"), ("last", "8 bits"))
    ):
        x = 20 + 180 * number
        shapes += card(x, 30, 130, 60, name, bits, strong=bits == "8 bits")
        shapes += arrow(x + 130, 60, x + 178, 60) if number < 3 else []
    shapes.append(Text(at=(360, 118), content="framed in colour: pinned, not searched", anchor="middle"))
    return Drawing(width=WIDTH, height=134, label="First and last layer are pinned at 8 bits", shapes=tuple(shapes))


def bitops() -> Drawing:
    shapes: list[Shape] = [
        rectangle(110, 14, 12, 12, MAIN),
        Text(at=(128, 24), content="nominal: the policy's bits"),
        rectangle(330, 14, 12, 12, OTHER),
        Text(at=(348, 24), content="realised: the bits that run"),
    ]
    for row, bits in enumerate((3, 5, 8)):
        y = 44 + 46 * row
        shapes.append(Text(at=(20, y + 20), content=f"layer {row + 1}", ink=TEXT))
        shapes += [rectangle(110, y, 65 * bits, 14, MAIN), Text(at=(118 + 65 * bits, y + 12), content=f"{bits} bits")]
        shapes += [rectangle(110, y + 17, 520, 14, OTHER), Text(at=(638, y + 29), content="8 bits")]
    return Drawing(width=WIDTH, height=190, label="Nominal and realised bits of three layers", shapes=tuple(shapes))


def parity() -> Drawing:
    shapes: list[Shape] = [*card(20, 70, 130, 50, "model.qdq.onnx", strong=True)]
    for y, name, more in ((20, "integer reference", "from the file alone"), (120, "runtime", "optimised graph")):
        shapes += arrow(150, 95, 210, y + 25)
        shapes += card(212, y, 180, 50, name, more)
        for number, code in enumerate(("17", "-3", "0", "92")):
            shapes += card(440 + 62 * number, y + 8, 52, 34, code)
        shapes += arrow(392, y + 25, 438, y + 25)
    shapes.append(Text(at=(560, 100), content="every code equal, in every tensor", ink=TEXT, anchor="middle"))
    return Drawing(width=WIDTH, height=190, label="Reference and runtime give the same integers", shapes=tuple(shapes))


def canary() -> Drawing:
    shapes: list[Shape] = [
        *card(20, 30, 190, 100, "bundle", "model, manifest,", "images, answers", strong=True),
        *arrow(210, 80, 290, 80),
        *card(292, 50, 160, 60, "server", "answers the images"),
        *arrow(452, 80, 530, 80),
        *card(532, 50, 170, 60, "compare", "bit for bit", strong=True),
        Line(points=((115, 130), (115, 160), (617, 160), (617, 112)), ink=LINE, width=1.6),
        Text(at=(366, 178), content="recorded answers", anchor="middle"),
    ]
    return Drawing(width=WIDTH, height=190, label="Canaries: recorded images and answers", shapes=tuple(shapes))


PICTURES = (indicator, joint, program, pinned, bitops, parity, canary)

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for picture in PICTURES:
        (FOLDER / f"{picture.__name__}.svg").write_text(to_svg(picture()), encoding="utf-8")
