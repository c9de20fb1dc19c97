"""The figures of the zoo as a Markdown page."""

from collections.abc import Iterator
from typing import Any

KINDS = ("torchvision", "timm", "others")


def page(result: dict[str, Any]) -> str:
    return "\n".join([*_counts(result), "", *_files(result), "", *_stopped(result)])


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
        "| compiler |"
    )
    yield "|" + "---|" * 8
    for kind in KINDS:
        for name, files in result[kind]["files"].items():
            for target, one in files.items():
                codes = f"{one['codes']:,}, {one['mismatches']}" if one["codes"] else "-"
                layers = f"{one['layer_mismatches']:,} of {one['layer_codes']:,}, {one['layer_lsb']}"
                word = {None: "-"}.get(one["compiler"], "accepts" if "accepts" in str(one["compiler"]) else "refuses")
                cells = (name, target, one["side"], f"{one['given']:.1g}", codes, layers, one["correlation"], word)
                yield f"| {' | '.join(map(str, cells))} |"


def _stopped(result: dict[str, Any]) -> Iterator[str]:
    for kind in KINDS:
        for name, why in (*result[kind]["refused"].items(), *result[kind]["not_exported"].items()):
            yield f"- {name}: {why}"
