"""The figures of the zoo as a Markdown page."""

from typing import Any

KINDS = ("torchvision", "timm", "others")


def page(result: dict[str, Any]) -> str:
    lines = ["| networks | models | accepted | tensorrt | onnxruntime | exports tried | exported |", "|" + "---|" * 7]
    told: list[str] = []
    for kind in KINDS:
        one = result[kind]
        numbers = (one["models"], one["accepted"], *one["by_target"].values(), one["tried"], one["exported"])
        lines.append(f"| {kind} | " + " | ".join("-" if each is None else str(each) for each in numbers) + " |")
        told += [f"{name}: {why}" for name, why in (*one["refused"].items(), *one["not_exported"].items())]
    return "\n".join([*lines, "", *told])
