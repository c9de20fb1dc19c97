"""The figures of the zoo as a Markdown page.

python benchmarks/zoo_page.py [ROWS.jsonl]       puts a run's rows into zoo.json, and its figures into zoo.md
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

KINDS = ("torchvision", "timm", "others")
WORSE = 1.25
"""Times the distance from float (1 - correlation) of min/max ranges beyond which a file is named."""
TOTALS = ("codes", "mismatches", "islands", "island_mismatches", "layer_codes", "layer_mismatches")
ALIKE = 1e-4
"""Networks whose float forms are farther apart are named."""


def page(result: dict[str, Any]) -> str:
    parts = (_told(result), _counts(result), _files(result), _stopped(result))
    return "\n".join(line for part in parts for line in (*part, "")).rstrip("\n")


def _told(result: dict[str, Any]) -> Iterator[str]:
    """What the tables come to."""
    files = [(name, target, one) for kind in KINDS for name, target, one in _each(result[kind])]
    total = {key: sum(one[key] for *_, one in files) for key in TOTALS}
    steps = max(one["layer_lsb"] for *_, one in files)
    yield (
        f"{len(files)} files of {len({name for name, *_ in files})} networks. Of {total['codes']:,} codes of the "
        f"integer reference {total['mismatches']} are others on ONNX Runtime; {total['islands']} islands of float "
        f"are counted apart, and {total['island_mismatches']} codes behind them differ. Layer by layer, "
        f"{total['layer_mismatches']:,} of {total['layer_codes']:,} codes of the quantized model in torch are others "
        f"in the file, by {steps} step at most."
    )
    asked = [str(one["compiler"]) for *_, one in files if one["compiler"] is not None]
    yield ""
    yield f"NVIDIA's compiler was asked of {len(asked)} files and accepts {sum('accepts' in one for one in asked)}."
    apart = sorted((one["given"], name) for name, _, one in files if one["given"] > ALIKE)
    names = sorted({name for _, name in apart})
    yield ""
    yield (
        f"Float forms of {len(names)} networks are more than {ALIKE:g} apart, by {apart[-1][0]:.1g} at most: "
        f"{', '.join(names)}."
        if apart
        else f"No float forms are more than {ALIKE:g} apart."
    )
    plain = [(name, target, one) for name, target, one in files if one.get("min_max") is not None]
    nearer = sum(one["correlation"] >= one["min_max"] for *_, one in plain)
    yield ""
    yield (
        f"{len(plain)} files stand beside min/max ranges at the same places: {nearer} agree with float as well or "
        f"better. Farther from it than {WORSE:g} times: {', '.join(_worse(plain)) or 'none'}."
    )


def _worse(plain: Sequence[tuple[str, str, Mapping[str, Any]]]) -> Iterator[str]:
    for name, target, one in plain:
        if 1 - one["correlation"] > WORSE * (1 - one["min_max"]) + ALIKE:
            yield f"{name} for {target} ({one['correlation']} beside {one['min_max']})"


def _each(kind: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for name, files in kind["files"].items():
        for target, one in files.items():
            yield name, target, one


def _counts(result: dict[str, Any]) -> Iterator[str]:
    yield "| networks | models | accepted | tensorrt | onnxruntime | exports tried | exported |"
    yield "|" + "---|" * 7
    for kind in KINDS:
        one = result[kind]
        numbers = (one["models"], one["accepted"], *one["by_target"].values(), one["tried"], one["exported"])
        yield f"| {kind} | " + " | ".join("-" if each is None else str(each) for each in numbers) + " |"


def _files(result: dict[str, Any]) -> Iterator[str]:
    yield (
        "| network | target | px | float forms apart | codes, differing | layer by layer, steps | correlation "
        "| min/max there | layers alone | compiler |"
    )
    yield "|" + "---|" * 10
    for kind in KINDS:
        for name, target, one in _each(result[kind]):
            codes = f"{one['codes']:,}, {one['mismatches']}" if one["codes"] else "-"
            layers = f"{one['layer_mismatches']:,} of {one['layer_codes']:,}, {one['layer_lsb']}"
            word = {None: "-"}.get(one["compiler"], "accepts" if "accepts" in str(one["compiler"]) else "refuses")
            plain = ["-" if one.get(key) is None else one[key] for key in ("min_max", "plain")]
            cells = (name, target, one["side"], f"{one['given']:.1g}", codes, layers, one["correlation"], *plain, word)
            yield f"| {' | '.join(map(str, cells))} |"


def _stopped(result: dict[str, Any]) -> Iterator[str]:
    for kind in KINDS:
        for name, why in (*result[kind]["refused"].items(), *result[kind]["not_exported"].items()):
            yield f"- {name}: {why}"


def with_rows(result: dict[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures with a later run's exports in place of what they say of these networks."""
    found = json.loads(json.dumps(result))
    for row in rows:
        kind = found[next(kind for kind in KINDS if row["name"].startswith((f"{kind}/", f"zoo_{kind}:")))]
        kind["files"].pop(row["name"], None)
        kind["not_exported"].pop(row["name"], None)
        if row["files"]:
            kind["files"][row["name"]] = row["files"]
        if row["exported"] is False:
            kind["not_exported"][row["name"]] = row["export_error"]
    for kind in KINDS:
        one = found[kind]
        one["files"] = dict(sorted(one["files"].items()))
        tried = one["files"].keys() | one["not_exported"].keys()
        one["tried"], one["exported"] = len(tried), len(tried - one["not_exported"].keys()) if tried else None
    return found


def renewed(text: str, result: dict[str, Any]) -> str:
    """The page with these figures between its marks."""
    marks = r"(<!-- figures: .*-->\n).*?(<!-- end of figures -->)"
    return re.sub(marks, lambda match: f"{match[1]}\n{page(result)}\n\n{match[2]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    figures, told = (Path(__file__).with_name(name) for name in ("zoo.json", "zoo.md"))
    lines = [line for file in sys.argv[1:] for line in Path(file).read_text(encoding="utf-8").splitlines()]
    result = with_rows(json.loads(figures.read_text(encoding="utf-8")), [json.loads(line) for line in lines])
    figures.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    told.write_text(renewed(told.read_text(encoding="utf-8"), result), encoding="utf-8")
