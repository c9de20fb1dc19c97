"""What `judges.py` found: which look chooses best, what fine-tuning adds to a network that was trained jointly, and
what every way costs. Figures and their page; nothing is measured here."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

CONTROLS = ("reversed", "random")
LEAST_POLICIES = 3
"""Of a budget and seed, that there is something to choose among."""
OLD_RULE = "preview, loss; of ties uniform, else the simplest"
"""What a build's tournament went by before these figures; since then ties go to ``kl`` first."""
TRAINED_BY_A_BUILD, EPOCHS_OF_A_BUILD = 3, 3
SHIPPED = "joint-0"
"""The look at what `build --no-finetune` ships."""
Z95 = 1.96

Row = dict[str, Any]
Group = list[Row]

TABLES = (("preview",), ("preview", "joint-50"), ("preview", "joint-50", "float-100"))
"""Looks that are set side by side, on the budgets and seeds of which all were taken."""


@dataclass(frozen=True)
class Chooser:
    """A rule that takes one of a group's policies; ``score``: what it goes by (smaller is better), None: by name."""

    name: str
    choose: Callable[[Group], Row]
    score: Callable[[Row], float] | None = None


def figures_of(
    model: str, lines: list[Row], looks: list[Row], out: Path, machine: Row, before: Row | None = None
) -> Row:
    """Everything that the page shows, from a network's lines, looks and prices, beside those of other networks that
    ``before`` has."""
    file = out / "prices.json"
    rows = with_looks(model, lines, looks)
    mark_ties(rows, out / "images-looked-at")
    prices = dict(before["prices"]) if before is not None else {}
    if file.exists():
        prices[model] = json.loads(file.read_text())
    others = [row for row in before["lines"] if row["model"] != model] if before is not None else []
    rows = sorted([*others, *rows], key=lambda row: (row["model"], row["seed"]))
    return {
        "machine": machine,
        "lines": rows,
        "tables": list(tables(rows)),
        "powers": list(powers(rows)),
        "budgets": list(budget_rows(rows)),
        "prices": prices,
    }


def with_looks(model: str, lines: list[Row], looks: list[Row]) -> list[Row]:
    """Every line with its looks by name; the preview's figures are the tournament's own."""
    found = []
    for line in lines:
        own = {name: value for name, value in line.items() if name not in ("times_macs", "weight_bits")}
        row = {"model": model, **own}
        mine = {
            one["look"]: {key: one[key] for key in ("top1", "loss", "kl", "test") if key in one}
            for one in looks
            if (one["seed"], one["bits"]) == (line["seed"], line["bits"])
        }
        mine.setdefault("preview", {"top1": line["preview"], "loss": line["preview_loss"]})
        found.append({**row, "looks": mine})
    return found


def mark_ties(rows: list[Row], kept: Path) -> None:
    """Put down with each look whether its images tell it from the best of its budget and seed, as a build's tournament
    asks: the mean difference, image by image, and half its 95 % interval. Only of looks whose images were kept."""
    for group in groups_of(rows):
        for name in {name for row in group for name in row["looks"]}:
            files = {id(row): kept / f"{row['seed']} {row['bits']} {name}.npz".replace(" ", "_") for row in group}
            if not all(file.exists() for file in files.values()):
                continue
            for figure in ("loss", "kl"):
                best = min(group, key=lambda row: row["looks"][name][figure])
                least = np.load(files[id(best)])[figure]
                for row in group:
                    more = np.load(files[id(row)])[figure] - least
                    half = Z95 * more.std(ddof=1) / len(more) ** 0.5
                    row["looks"][name][f"{figure}_ties"] = bool(row is best or more.mean() - half <= 0)
                    row["looks"][name][f"{figure}_behind"] = [round(float(one), 5) for one in (more.mean(), half)]


def groups_of(rows: list[Row]) -> Iterator[Group]:
    """Policies of one budget and seed, controls left out, where there are enough and uniform bits among them."""
    for key in dict.fromkeys(map(_choice, rows)):
        group = [row for row in rows if _choice(row) == key and row["policy"].split()[0] not in CONTROLS]
        if len(group) >= LEAST_POLICIES and any(_uniform(row) for row in group):
            yield group


def tables(rows: list[Row]) -> Iterator[Row]:
    """The choosers side by side, for each set of looks."""
    for looks in TABLES:
        groups = [
            group
            for group in groups_of(rows)
            if all("kl" in row["looks"].get(look, {}) for row in group for look in looks)
        ]
        if groups:
            rules = list(choosers(looks, groups))
            old = next((rule for rule in rules if rule.name == OLD_RULE), None)
            yield {
                "looks": list(looks),
                "groups": [[*_choice(group[0]), len(group)] for group in groups],
                "rows": [judged(rule, groups, old) for rule in rules],
            }


def choosers(looks: Iterable[str], groups: list[Group]) -> Iterator[Chooser]:
    """Every look by every figure that all have; with ties, as a build takes one of them; and names alone."""
    for look in looks:
        for figure in ("top1", "loss", "kl"):
            if all(figure in row["looks"][look] for group in groups for row in group):
                yield _by_figure(look, figure)
            if all(f"{figure}_ties" in row["looks"][look] for group in groups for row in group):
                yield _among_ties(look, figure, "uniform", simplest=True)
                yield _among_ties(look, figure, "uniform", simplest=False)
                yield _among_ties(look, figure, "kl", "uniform", simplest=True)
    for name in ("uniform", "scale", "kl", "loss", "fisher"):
        if all(any(row["policy"].split()[0] == name for row in group) for group in groups):
            yield Chooser(f"always {name}", lambda group, name=name: _named(group, name))  # type: ignore[misc]


def _by_figure(look: str, figure: str) -> Chooser:
    sign = -1.0 if figure == "top1" else 1.0

    def score(row: Row) -> float:
        return sign * float(row["looks"][look][figure])

    return Chooser(f"{look}, {figure}", lambda group: min(group, key=score), score)


def _among_ties(look: str, figure: str, *first: str, simplest: bool) -> Chooser:
    """The first of these that ties with the best; else the fewest pairs of bits among ties, or the best itself
    (`ties.chosen`)."""

    def choose(group: Group) -> Row:
        ties = [row for row in group if row["looks"][look][f"{figure}_ties"]]

        def simplicity(row: Row) -> tuple[int, float]:
            return len(set(row["bits"].split())) if simplest else 0, row["looks"][look][figure]

        preferred = [row for name in first for row in ties if row["policy"].split()[0] == name]
        return preferred[0] if preferred else min(ties, key=simplicity)

    names = ", else ".join((*first, "the simplest") if simplest else first)
    return Chooser(f"{look}, {figure}; of ties {names}", choose)


def judged(chooser: Chooser, groups: list[Group], old: Chooser | None) -> Row:
    """How well a rule chooses: after fine-tuning, on held-out images and on test, against the best of the group and
    against the best uniform policy (best on held-out images) and what the ``old`` rule takes; and its
    rank correlations."""
    found: Row = {"judge": chooser.name}
    taken = [chooser.choose(group) for group in groups]
    seeds = [_choice(group[0])[:2] for group in groups]
    for split in ("held", "test"):
        best = [max(row[split] for row in group) for group in groups]
        uniform = [max(filter(_uniform, group), key=_held)[split] for group in groups]
        mine = [row[split] for row in taken]
        found[f"regret_{split}"] = spread([a - b for a, b in zip(mine, best, strict=True)], seeds)
        found[f"over_uniform_{split}"] = spread([a - b for a, b in zip(mine, uniform, strict=True)], seeds)
        if old is not None:
            other = [old.choose(group)[split] for group in groups]
            found[f"over_old_{split}"] = spread([a - b for a, b in zip(mine, other, strict=True)], seeds)
        if chooser.score is not None:
            for name, correlation in (("spearman", spearmanr), ("kendall", kendalltau)):
                each = [
                    float(correlation([-chooser.score(row) for row in group], [row[split] for row in group]).statistic)
                    for group in groups
                ]
                found[f"{name}_{split}"] = spread(each, seeds)
    found["uniform_taken"] = sum(map(_uniform, taken))
    return found


def spread(values: list[float], seeds: list[Any]) -> Row:
    """Mean over budgets and seeds and its standard deviation, and the deviation of the seeds' means."""
    by_seed = [fmean(v for v, seed in zip(values, seeds, strict=True) if seed == one) for one in dict.fromkeys(seeds)]
    return {
        "mean": round(fmean(values), 3),
        "sd": round(stdev(values), 3) if len(values) > 1 else None,
        "sd_of_seeds": round(stdev(by_seed), 3) if len(by_seed) > 1 else None,
    }


def powers(rows: list[Row]) -> Iterator[Row]:
    """How well each look and figure tells policies from the best of their choice: how many are told apart, and the
    median of the difference over half its interval (1: on the edge)."""
    groups = list(groups_of(rows))
    for look in TABLES[-1]:
        for figure in ("loss", "kl"):
            key = f"{figure}_behind"
            seen = [group for group in groups if all(key in row["looks"].get(look, {}) for row in group)]
            behind = [row["looks"][look][key] for group in seen for row in group if row["looks"][look][key][0] > 0]
            if behind:
                ratios = [more / half for more, half in behind]
                apart = sum(ratio > 1 for ratio in ratios)
                found = {"policies": len(behind), "told_apart": apart, "median_ratio": round(median(ratios), 2)}
                yield {"look": look, "figure": figure, "choices": len(seen), **found}


def budget_rows(rows: list[Row]) -> Iterator[Row]:
    """Of every budget and policy whose joint network was looked at on test: that network alone, BatchNorm estimated
    anew on augmented images, beside what fine-tuning makes of the policy."""
    tested = [row for row in rows if "test" in row["looks"].get(SHIPPED, {})]
    for key in sorted(dict.fromkeys((row["model"], row["budget"], row["policy"]) for row in tested)):
        mine = [row for row in tested if (row["model"], row["budget"], row["policy"]) == key]
        joint = [row["looks"][SHIPPED] for row in mine]
        yield {
            **dict(zip(("model", "budget", "policy"), key, strict=True)),
            "seeds": len(mine),
            "preview_held": _spread([row["preview"] for row in mine]),
            "joint_held": _spread([look["top1"] for look in joint]),
            "tuned_held": _spread([row["held"] for row in mine]),
            "joint_test": _spread([look["test"] for look in joint]),
            "tuned_test": _spread([row["test"] for row in mine]),
            "left_test": _spread([look["test"] - row["test"] for look, row in zip(joint, mine, strict=True)]),
        }


def page(found: Row) -> str:
    """The tables in Markdown."""
    return "\n".join(_page(found))


def _page(found: Row) -> Iterator[str]:
    for table in found["tables"]:
        yield f"\n{len(table['groups'])} choices ({_choices(table['groups'])}); looks {', '.join(table['looks'])}:\n"
        yield (
            "| judge | Spearman, held | Kendall, held | less than best, held | over uniform, held | "
            "over the old rule, held | Spearman, test | less than best, test | over uniform, test | "
            "over the old rule, test | takes uniform |"
        )
        yield "|---|---|---|---|---|---|---|---|---|---|---|"
        for row in table["rows"]:
            cells = [
                _shown(row.get(key), "+")
                for key in (
                    *("spearman_held", "kendall_held", "regret_held", "over_uniform_held", "over_old_held"),
                    *("spearman_test", "regret_test", "over_uniform_test", "over_old_test"),
                )
            ]
            yield f"| {row['judge']} | {' | '.join(cells)} | {row['uniform_taken']} of {len(table['groups'])} |"
    yield "\n| look, figure | choices | told from the best | difference / half its 95 % interval, median |"
    yield "|---|---|---|---|"
    for row in found["powers"]:
        told = f"{row['told_apart']} of {row['policies']}"
        yield f"| {row['look']}, {row['figure']} | {row['choices']} | {told} | {row['median_ratio']:.2f} |"
    yield ""
    yield (
        "| network | budget | policy | seeds | preview, held | joint, held | fine-tuned, held | joint, test | "
        "fine-tuned, test | joint less fine-tuned, test |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in found["budgets"]:
        plain = ("preview_held", "joint_held", "tuned_held", "joint_test", "tuned_test")
        cells = [*(_shown(row[key]) for key in plain), _shown(row["left_test"], "+")]
        name = _short(row["model"])
        yield f"| {name} | {row['budget']} | {row['policy']} | {row['seeds']} | {' | '.join(cells)} |"
    for model, prices in found["prices"].items():
        yield ""
        yield from price_table(prices, [row for row in found["budgets"] if row["model"] == model])


def _choices(groups: list[list[Any]]) -> str:
    """``mobilenet w3a3 of seeds 0, 1; efficientnet ...``."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for model, seed, budget, _ in groups:
        seeds.setdefault((_short(model), budget), []).append(str(seed))
    return "; ".join(f"{model} {budget} of seeds {', '.join(some)}" for (model, budget), some in seeds.items())


def price_table(prices: Row, budgets: list[Row]) -> Iterator[str]:
    """Ways to a quantized network: top-1 on test beside processor time, in passes of float training."""
    at = {(row["budget"], row["policy"].split()[0]): row for row in budgets}
    epoch = prices["float_epoch"]
    yield "| way | w8a8 | w4a4 | w3a3 | s of one core | in epochs of float training |"
    yield "|---|---|---|---|---|---|"

    def tested(policy: str, key: str) -> list[str]:
        found = (at.get((budget, policy)) for budget in ("w4a4", "w3a3"))
        return ["", *("" if row is None else _shown(row[key]) for row in found)]

    calibrated = [f"{prices['calibrated'][bits]['test']:.2f}" for bits in ("w8a8", "w4a4", "w3a3")]
    joint = prices["joint_training"]
    search = joint + prices["measures"] + prices["previews"]
    taken = prices["taking_joint"]
    ways = (
        ("PTQ, uniform", calibrated, prices["calibration"]),
        ("joint, not fine-tuned, uniform", tested("uniform", "joint_test"), joint + taken),
        ("joint, not fine-tuned, `kl`", tested("kl", "joint_test"), search + taken),
        ("uniform, fine-tuned", tested("uniform", "tuned_test"), prices["finetuning"]),
        ("joint and fine-tuned, `kl`", tested("kl", "tuned_test"), search + prices["finetuning"]),
    )
    for name, cells, seconds in ways:
        yield f"| {name} | {' | '.join(cells)} | {seconds:.0f} | {seconds / epoch:.2f} |"
    built = TRAINED_BY_A_BUILD * EPOCHS_OF_A_BUILD * prices["finetuning_epoch"]
    left = 2 * taken + prices["calibration"]
    yield (
        f"\nA build fine-tunes {TRAINED_BY_A_BUILD} models (policy, uniform, int8) for {EPOCHS_OF_A_BUILD} epochs: "
        f"{built:.0f} s. `--no-finetune` takes two from the joint training and calibrates int8: {left:.0f} s, "
        f"{built / left:.1f} times less."
    )


def _shown(value: Row | None, sign: str = "") -> str:
    if value is None:
        return ""
    return f"{value['mean']:{sign}.2f}" + (f" ({value['sd']:.2f})" if value["sd"] is not None else "")


def _spread(values: list[float]) -> Row:
    return {"mean": round(fmean(values), 3), "sd": round(stdev(values), 3) if len(values) > 1 else None}


def _short(model: str) -> str:
    return model.partition(":")[2] or model


def _choice(row: Row) -> tuple[str, int, str]:
    """Among what a row was: network, seed, budget."""
    return row["model"], row["seed"], row["budget"]


def _named(group: Group, name: str) -> Row:
    return max((row for row in group if row["policy"].split()[0] == name), key=_held)


def _uniform(row: Row) -> bool:
    return bool(row["policy"].startswith("uniform"))


def _held(row: Row) -> float:
    return float(row["held"])
