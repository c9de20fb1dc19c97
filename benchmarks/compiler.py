"""NVIDIA's compiler (TensorRT-RTX, without a GPU) on files of ten networks: accepted or not, kernels, bytes moved.

Each network of torchvision or timm, with fresh weights, as files of every kind in every form (`compiler_files`); one
engine for sm86, sm89 and sm120. Nothing is run: figures are what the compiler plans, and say nothing of milliseconds.

Keys: ``compiler``, ``gpus``; ``files``, ``accepted``, ``as_planned`` (accepted, and every layer that is planned in
integers is in integers), ``warnings``; ``networks`` {name: {"FORM KIND": {``kernels``, ``integer_layers``, ``planned``,
``layers``, ``moved_mb_b1``, ``moved_mb_b8``, ``weight_mb``, ``seconds``, ``refused`` (why, if it is)}}}; ``machine``.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import torch
from compiler_files import FORMS, KINDS, files, subject_of

from limpq_deploy.export.records.environment import read_environment
from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import compiler_name
from limpq_deploy.export.runtimes.tensorrt_rtx.capabilities import DEFAULT
from limpq_deploy.export.runtimes.tensorrt_rtx.word import CompilerWord, compiler_word
from limpq_deploy.model.zoo import create_model

NETWORKS = (
    *("torchvision/resnet18", "torchvision/resnet50", "torchvision/vgg11_bn", "torchvision/mobilenet_v2"),
    *("torchvision/efficientnet_b0", "torchvision/regnet_y_400mf", "torchvision/densenet121"),
    *("timm/mobilenetv3_large_100", "timm/repvgg_a0", "timm/convnext_atto"),
)
QUICK = ("torchvision/resnet18", "torchvision/mobilenet_v2")
EVERY_KIND_IN = "10"
"""The form whose files are of every kind; in others those that differ by form."""
BY_FORM = ("w8a8", "mixed", "weights")


def made(networks: tuple[str, ...], forms: tuple[str, ...], kinds: tuple[str, ...]) -> Iterator[tuple[str, str, Any]]:
    """(network, "FORM KIND", file), one after another: they are large."""
    for name in networks:
        torch.manual_seed(0)
        model, info = create_model(name)
        shape = info.preprocess.shape if info.preprocess is not None else (3, 224, 224)
        subject = subject_of(name, model, shape)
        for form in forms:
            for kind, file in files(subject, form, kinds if form == EVERY_KIND_IN else BY_FORM):
                yield name, f"{form} {kind}", file
        print(f"{name}: files made", file=sys.stderr, flush=True)


def timed_word(model: onnx.ModelProto) -> tuple[CompilerWord, float]:
    start = time.perf_counter()
    return compiler_word(model), time.perf_counter() - start


def row(word: CompilerWord, seconds: float) -> dict[str, Any]:
    """What is kept of the compiler's word; sizes in 1e6 bytes."""
    if not word.accepted:
        return {"refused": word.detail, "seconds": round(seconds, 1)}
    moved = word.moved_bytes or {}
    return {
        "kernels": word.kernels,
        "integer_layers": word.integer_layers,
        "planned": word.planned,
        "layers": word.layers,
        **{f"moved_mb_b{batch}": round((moved.get(f"batch_{batch}") or 0) / 1e6, 1) for batch in (1, 8)},
        "weight_mb": round((word.weight_bytes or 0) / 1e6, 1),
        "seconds": round(seconds, 1),
        **({"as_floats": list(word.as_floats)} if word.as_floats else {}),
        **({"warnings": list(word.warnings)} if word.warnings else {}),
    }


def measure(networks: tuple[str, ...], forms: tuple[str, ...], kinds: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in networks}
    words: list[CompilerWord] = []
    with ThreadPoolExecutor(2) as pool:
        pending: list[tuple[str, str, Future[tuple[CompilerWord, float]]]] = []

        def settle(most: int) -> None:
            while len(pending) > most:
                name, kind, future = pending.pop(0)
                word, seconds = future.result()
                words.append(word)
                found[name][kind] = row(word, seconds)

        for name, kind, model in made(networks, forms, kinds):
            pending.append((name, kind, pool.submit(timed_word, model)))
            settle(3)
        settle(0)
    return {
        "compiler": compiler_name(),
        "gpus": list(DEFAULT),
        "files": len(words),
        "accepted": sum(word.accepted is True for word in words),
        "as_planned": sum(word.as_planned for word in words),
        "warnings": sum(len(word.warnings) for word in words),
        "networks": found,
        "machine": {"cpu": read_environment().cpu, "cpus": os.cpu_count(), "load": list(os.getloadavg())},
    }


def page(found: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    floats = sum(one.get("planned") == 0 for rows in found["networks"].values() for one in rows.values())
    lines = [
        "# NVIDIA's compiler on files of ten networks",
        "",
        f"{found['compiler']}, one engine for {', '.join(found['gpus'])}, built without a GPU and never run. "
        f"{found['accepted']} of {found['files']} files accepted, {found['as_planned']} with every integer layer as "
        f"planned ({floats} plan none), {found['warnings']} warnings. Moved: bytes that planned kernels read and "
        "write, without weights, of an engine tuned for the batch. Renewed by `python benchmarks/compiler.py --out "
        "benchmarks`.",
        "",
        "| network | file | kernels | integer layers (planned, all) | moved MB, batch 1 | batch 8 | weights MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in found["networks"].items():
        for kind, one in rows.items():
            if "refused" in one:
                lines.append(f"| {name} | {kind} | refused | {one['refused']} | | | |")
                continue
            layers = f"{one['integer_layers']} ({one['planned']}, {one['layers']})"
            sizes = f"{one['moved_mb_b1']} | {one['moved_mb_b8']} | {one['weight_mb']}"
            lines.append(f"| {name} | {kind} | {one['kernels']} | {layers} | {sizes} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two networks, one form")
    parser.add_argument("--smoke", action="store_true", help="one small network, one form")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="folder for compiler_x86.json and .md")
    chosen = parser.parse_args()
    networks = ("resnet8",) if chosen.smoke else QUICK if chosen.quick else NETWORKS
    forms = (EVERY_KIND_IN,) if chosen.smoke or chosen.quick else FORMS
    found = measure(networks, forms, ("w8a8", "mixed") if chosen.smoke else KINDS)
    if chosen.out is not None:
        (chosen.out / "compiler_x86.json").write_text(json.dumps(found, indent=1) + "\n")
        (chosen.out / "compiler_x86.md").write_text(page(found))
    print(json.dumps(found) if chosen.json else page(found))


if __name__ == "__main__":
    main()
