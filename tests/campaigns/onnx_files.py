"""Hostile ONNX files and the commands that are given them: no traceback, no raw escape sequence, no crash."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from .mutations import in_bytes
from .tally import Tally, raw, unclean

ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202e"
COMMANDS = (
    "lint {}",
    "lint {} --target onnxruntime",
    "lint {} --target tensorrt",
    "parity {}",
    "evaluate {}",
    "inspect {}",
)
SECONDS = 120


def campaign(build: Path, scratch: Path, *, cases: int, seed: int) -> Tally:
    """``cases`` files: hostile forms in turn, and damaged bytes of exported ones between them; each to one command."""
    tally, rng, hostile = Tally("onnx"), random.Random(seed), dict(forms())
    exported = [(build / name).read_bytes() for name in ("model.qdq.onnx", "baselines/float.onnx")]
    path = scratch / "hostile.onnx"
    for case in range(cases):
        if case % 2:
            name, data = "damaged", in_bytes(rng.choice(exported), rng)
        else:
            name = rng.choice(list(hostile))
            data = hostile[name]
        path.write_bytes(data)
        words = rng.choice(COMMANDS).format(path).split()
        if words[0] == "evaluate":
            words += ["--data", "digits"]
        outcome, failure = answer(words, scratch)
        tally.count(outcome, failure and f"{name} given to {words[0]}, case {case} of seed {seed}: {failure}")
    return tally


def answer(words: list[str], folder: Path) -> tuple[str, str | None]:
    """What a command in a process of its own did: (outcome, failure)."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "limpq_deploy", *words],
            cwd=folder,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            env={**os.environ, "COLUMNS": "100"},
        )
    except subprocess.TimeoutExpired:
        return "hung", f"no answer within {SECONDS} s"
    said = done.stdout.decode("utf-8", "backslashreplace"), done.stderr.decode("utf-8", "backslashreplace")
    if done.returncode < 0:
        return "crashed", f"ended by {signal.Signals(-done.returncode).name}: {said[1][-300:]}"
    if "Traceback (most recent call last)" in said[1]:
        return "traceback", said[1][-600:]
    sentences = [line for line in said[1].splitlines() if line.startswith("Error: ")]
    problems = raw(said[0]), raw(said[1]), *map(unclean, sentences)
    return f"exit code {done.returncode}", next(filter(None, problems), None)


def forms() -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of files that are hostile in one way each."""
    relus = [
        helper.make_node(
            "Relu", ["images" if place == 0 else f"t{place}"], ["out" if place == 19_999 else f"t{place + 1}"]
        )
        for place in range(20_000)
    ]
    yield "a chain of 20,000 nodes", _model(relus)
    for name in (ESCAPE, "n" * 300_000, "", "a\nb\r", "../../x"):
        yield f"names {name[:10]!r}", _model([_conv("w" + name, "n" + name)], weight="w" + name)
        yield (
            f"an unknown operator {name[:10]!r}",
            _model([helper.make_node(f"Op{name}", ["images"], ["out"], name=name)]),
        )
    big = {"height": 100_000, "width": 100_000, "mean": [0.0] * 3, "std": [1.0] * 3, "channels": 3}
    for key in (
        "limpq.classes",
        "limpq.preprocess",
        "limpq.float_layers",
        "limpq.markers",
        "limpq.target",
        "limpq.stored",
    ):
        for value in ("5", '"abc"', "null", "[5]", "{}", "[" * 100_000, json.dumps(big), ESCAPE, '["a", "a"]', ""):
            yield f"{key} {value[:20]!r}", _model([_conv("w", "n")], weight="w", metadata={key: value})
    for shape in ((1, 3, 2**40, 2**40), (0, 3, 8, 8), (-1, 3, 8, 8), (), ("N", 3, "H", "W"), (1,) * 300):
        yield f"an input {str(shape)[:30]}", _model([_conv("w", "n")], weight="w", shape=shape)
    yield (
        "a cycle",
        _model([helper.make_node("Add", ["images", "b"], ["a"]), helper.make_node("Add", ["a", "a"], ["b"])]),
    )


def _conv(weight: str, name: str) -> onnx.NodeProto:
    return helper.make_node("Conv", ["images", weight], ["out"], name=name)


def _model(
    nodes: list[onnx.NodeProto],
    *,
    weight: str | None = None,
    metadata: dict[str, str] | None = None,
    shape: tuple[int | str, ...] = (1, 3, 8, 8),
) -> bytes:
    weights = (
        [helper.make_tensor(weight, TensorProto.FLOAT, (1, 3, 1, 1), [1.0, 2.0, 3.0])] if weight is not None else []
    )
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString())
