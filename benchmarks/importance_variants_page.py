"""The tables of `importance_variants`, from its JSON."""

from collections.abc import Iterable, Iterator
from statistics import fmean, stdev
from typing import Any

import numpy as np

Row = dict[str, Any]
UNIFORM = "uniform"
QUARTERED = "kl, weights / 4"


def page(found: Row) -> str:
    """Fine-tuned variants beside the lines of importance.py, what measures think of those lines, previews, seconds."""
    tables = (_trained(found), _judged(found), _previews(found), _measures(found))
    return "\n\n".join("\n".join(table) for table in tables)


def _trained(found: Row) -> Iterator[str]:
    yield "| budget | policy | seeds | preview | held after | test after | held - uniform | held - `kl` | test - `kl` |"
    yield "|---|---|---|---|---|---|---|---|---|"
    lines = [*found["beside"], *found["lines"]]
    for budget, name, mine in _groups(lines):
        uniform, kl = (_paired(mine, lines, "held", rival) for rival in (f"{UNIFORM} {budget}", "kl"))
        figures = [_mean([line[key] for line in mine]) for key in ("preview", "held", "test")]
        behind = _paired(mine, lines, "test", "kl")
        yield " | ".join((f"| {budget} | {name}", str(len(mine)), *figures, uniform, kl, f"{behind} |"))


def quarters(lines: dict[str, list[Row]]) -> Iterator[str]:
    """Of networks, the lines of importance.py and those of ``kl, weights / 4``: what the quarter changes."""
    yield "| network | budget | seeds | held after | test after | held - `kl` | test - `kl` |"
    yield "|---|---|---|---|---|---|---|"
    for network, known in lines.items():
        for budget, name, mine in _groups(known):
            if name == QUARTERED:
                figures = [_mean([line[key] for line in mine]) for key in ("held", "test")]
                behind = [_paired(mine, known, key, "kl") for key in ("held", "test")]
                yield " | ".join((f"| {network} | {budget}", str(len(mine)), *figures, *behind)) + " |"


def _judged(found: Row) -> Iterator[str]:
    """Rank correlation over the policies of one seed and budget, and its mean over seeds."""
    yield "| budget | measure | seeds | with preview loss | with held after | with test after |"
    yield "|---|---|---|---|---|---|"
    groups: dict[tuple[str, str], dict[int, list[tuple[float, Row]]]] = {}
    lines = {(line["seed"], line["budget"], line["policy"]): line for line in found["beside"]}
    thoughts = [(one["measure"], one["objective"], one) for one in found["judged"]]
    thoughts += [("preview loss", line["preview_loss"], line) for line in found["beside"]]
    for measure, value, one in thoughts:
        line = lines[one["seed"], one["budget"], one["policy"]]
        groups.setdefault((one["budget"], measure), {}).setdefault(one["seed"], []).append((value, line))
    for (budget, measure), seeds in sorted(groups.items(), key=lambda item: item[0][0], reverse=True):
        figures = []
        for key, sign in (("preview_loss", 1), ("held", -1), ("test", -1)):
            values = [
                rank_correlation([value for value, _ in some], [sign * line[key] for _, line in some])
                for some in seeds.values()
            ]
            figures.append(_mean(values, sign=True))
        yield f"| {budget} | {measure} | {len(seeds)} | {' | '.join(figures)} |"


def rank_correlation(left: Iterable[float], right: Iterable[float]) -> float:
    """Spearman's: ties share their mean rank. 0 where one side is the same everywhere."""
    ranks = []
    for values in (np.array(list(left)), np.array(list(right))):
        ranks.append([(values < one).sum() + ((values == one).sum() - 1) / 2 for one in values])
    if min(np.std(one) for one in ranks) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _previews(found: Row) -> Iterator[str]:
    yield "| budget | variant | seeds | preview | preview loss | layers unlike `kl`'s |"
    yield "|---|---|---|---|---|---|"
    tournament = [line for line in found["beside"] if line["policy"].split()[0] in (UNIFORM, "kl", "scale")]
    lines = [*tournament, *found["previews"]]
    bits = {(line["seed"], line["budget"]): line["bits"] for line in found["beside"] if line["policy"] == "kl"}
    for budget, name, mine in _groups(lines):
        counts = [
            sum(pair != other for pair, other in zip(line["bits"].split(), bits[key].split(), strict=True))
            for line in mine
            if (key := (line["seed"], budget)) in bits
        ]
        unlike = ", ".join(map(str, counts))
        losses = _mean([line["preview_loss"] for line in mine], digits=3)
        top1 = _mean([line["preview"] for line in mine])
        yield f"| {budget} | {name} | {len(mine)} | {top1} | {losses} | {unlike} |"


def _measures(found: Row) -> Iterator[str]:
    yield "| seed | images | measure | CPU seconds | steps that rise with a bit |"
    yield "|---|---|---|---|---|"
    for one in found["measures"]:
        for name in sorted(key.removesuffix(", seconds") for key in one if key.endswith(", seconds")):
            steps = one.get(f"{name}, steps")
            rising = "" if steps is None else f"{one[f'{name}, rising steps']} of {steps}"
            images = one["images"] // 2 if name == "pairs" else one["images"]
            yield f"| {one['seed']} | {images} | {name} | {one[f'{name}, seconds']:.0f} | {rising} |"


def _groups(lines: Iterable[Row]) -> Iterator[tuple[str, str, list[Row]]]:
    """Budget, policy and the lines of all seeds."""
    lines = list(lines)
    for budget in dict.fromkeys(line["budget"] for line in lines):
        group = [line for line in lines if line["budget"] == budget]
        for name in dict.fromkeys(line["policy"] for line in group):
            yield budget, name, [line for line in group if line["policy"] == name]


def _paired(mine: list[Row], lines: list[Row], key: str, rival: str) -> str:
    """Differences to another policy's line of the same seed and budget."""
    others = {(line["seed"], line["budget"]): line[key] for line in lines if line["policy"] == rival}
    places = [(line, (line["seed"], line["budget"])) for line in mine if line["policy"] != rival]
    differences = [line[key] - others[place] for line, place in places if place in others]
    return _mean(differences, sign=True) if differences else ""


def _mean(values: list[float], *, sign: bool = False, digits: int = 2) -> str:
    text = f"{fmean(values):+.{digits}f}" if sign else f"{fmean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ({stdev(values):.{digits}f})"
