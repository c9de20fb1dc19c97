"""What the policy's file answers: its confusions, and the images that it answers otherwise than float."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from markupsafe import Markup

from limpq_deploy.report import svg
from limpq_deploy.report.inputs import ReportInputs
from limpq_deploy.verdict.answers import Flipped

MOST_CLASSES = 25
"""Of more classes than this the largest confusions are listed instead of a matrix."""

LISTED = 12

CELL, NAME_PX = 26, 6.2

Named = Callable[[int], str]
"""A class by its index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """``source``: a data URI, None where there is none; what it is and what both models say."""

    source: str | None
    image: int
    label: str
    by_float: str
    by_mixed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """A pair of classes and how often the file, and float, take the first for the second."""

    label: str
    answer: str
    mixed: int
    by_float: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersSection:
    """``matrix`` None: too many classes. ``lost`` and ``won`` are of ``num_lost`` and ``num_won`` images."""

    matrix: Markup | None
    width: int
    confusions: tuple[Confusion, ...]
    images: int
    changed: int
    lost: tuple[Picture, ...]
    won: tuple[Picture, ...]
    num_lost: int
    num_won: int


def answers_section(inputs: ReportInputs) -> AnswersSection | None:
    """None for tasks that are not classification, and where the answers were not kept."""
    found = inputs.answers
    if found is None or not found.labels:
        return None
    labels = np.array(found.labels)
    mixed, plain = (np.array(found.predictions[name]) for name in ("mixed", "float"))
    names = [_name(inputs, number) for number in range(min(found.classes, MOST_CLASSES))]
    named = partial(_name, inputs)
    small = found.classes <= MOST_CLASSES
    return AnswersSection(
        matrix=_matrix(_counts(labels, mixed, found.classes), names) if small else None,
        width=_width(names),
        confusions=tuple(_confusions(labels, mixed, plain, named)),
        images=len(labels),
        changed=int((mixed != plain).sum()),
        lost=tuple(_picture(one, named) for one in found.lost),
        won=tuple(_picture(one, named) for one in found.won),
        num_lost=int(((plain == labels) & (mixed != labels)).sum()),
        num_won=int(((plain != labels) & (mixed == labels)).sum()),
    )


def _name(inputs: ReportInputs, number: int) -> str:
    return inputs.class_names[number] if 0 <= number < len(inputs.class_names) else str(number)


def _counts(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """[label, answer] -> images."""
    return np.bincount(labels * classes + answers, minlength=classes * classes).reshape(classes, classes)


def _confusions(labels: np.ndarray, mixed: np.ndarray, plain: np.ndarray, named: Named) -> list[Confusion]:
    """The most frequent pairs of a label and another answer of the policy's file."""
    wrong = labels != mixed
    pairs, numbers = np.unique(np.stack((labels[wrong], mixed[wrong]), axis=1), axis=0, return_counts=True)
    order = np.argsort(-numbers, kind="stable")[:LISTED]
    return [
        Confusion(
            label=named(label),
            answer=named(answer),
            mixed=int(number),
            by_float=int(((labels == label) & (plain == answer)).sum()),
        )
        for (label, answer), number in zip(pairs[order].tolist(), numbers[order], strict=True)
    ]


def _left(names: list[str]) -> float:
    return 26 + NAME_PX * min(18, max(map(len, names)))


def _width(names: list[str]) -> int:
    return round(_left(names) + CELL * len(names) + 8)


def _matrix(counts: np.ndarray, names: list[str]) -> Markup:
    """Rows are labels, columns answers; a row's colour is its share, right answers in one colour, wrong ones in
    another."""
    left, size = _left(names), len(names)
    top = 22 + NAME_PX * min(18, max(map(len, names)))
    parts = [
        svg.tag("text", "answer", x=left + CELL * size / 2, y=11, text_anchor="middle", class_="tick"),
        svg.tag(
            "text",
            "label",
            x=9,
            y=top + CELL * size / 2,
            text_anchor="middle",
            class_="tick",
            transform=f"rotate(-90 9 {svg.number(top + CELL * size / 2)})",
        ),
    ]
    for place, name in enumerate(names):
        short = name if len(name) <= 18 else f"{name[:17]}\N{HORIZONTAL ELLIPSIS}"
        middle = CELL * (place + 0.5)
        x = left + middle + 3.5
        turned = f"rotate(-90 {svg.number(x)} {svg.number(top - 6)})"
        parts.append(svg.tag("text", short, x=left - 6, y=top + middle + 3.5, text_anchor="end", class_="name"))
        parts.append(svg.tag("text", short, x=x, y=top - 6, class_="name", transform=turned))
    for row in range(size):
        total = max(1, int(counts[row].sum()))
        for column in range(size):
            number = int(counts[row, column])
            share = number / total
            kind = "right" if row == column else "wrong"
            opacity = share if row == column else min(1.0, 0.15 + 3 * share) if number else 0.0
            x, y = left + CELL * column, top + CELL * row
            hover = f"{names[row]} taken for {names[column]}: {number} of {total}"
            cell = [
                svg.tag("title", hover),
                svg.tag("rect", x=x, y=y, width=CELL - 1, height=CELL - 1, class_="confused-none"),
            ]
            if number:
                cell.append(
                    svg.tag(
                        "rect",
                        x=x,
                        y=y,
                        width=CELL - 1,
                        height=CELL - 1,
                        class_=f"confused-{kind}",
                        fill_opacity=round(opacity, 3),
                    )
                )
                ink = "on-dark" if opacity > 0.55 else "on-light"
                cell.append(
                    svg.tag(
                        "text",
                        str(number),
                        x=x + CELL / 2 - 0.5,
                        y=y + CELL / 2 + 3,
                        text_anchor="middle",
                        class_=f"confused-number {ink}",
                    )
                )
            parts.append(svg.tag("g", *cell))
    height = top + CELL * size + 4
    return svg.tag(
        "svg",
        *parts,
        class_="confusion",
        viewBox=f"0 0 {_width(names)} {svg.number(height)}",
        width=_width(names),
        role="img",
        aria_label="Confusion matrix of the policy's file; the list beside it holds the largest confusions.",
    )


def _picture(one: Flipped, named: Named) -> Picture:
    return Picture(
        source=f"data:image/png;base64,{one.png}" if one.png is not None and _is_base64(one.png) else None,
        image=one.image,
        label=named(one.label),
        by_float=named(one.by_float),
        by_mixed=named(one.by_mixed),
    )


def _is_base64(text: str) -> bool:
    return text.isascii() and all(letter.isalnum() or letter in "+/=" for letter in text)
