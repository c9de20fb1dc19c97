"""Files of every kind meet NVIDIA's compiler: all are accepted as planned, with the kernels and bytes of a table.

``tests/golden/compiler.json`` has a row for each network, form and kind; renewed, for another version of the compiler
or other files, by

    python tests/export/runtimes/tensorrt_rtx/test_golden.py
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import pytest

ROOT = Path(__file__).resolve().parents[4]
sys.path.append(str(ROOT / "benchmarks"))

pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra limpq-deploy[rtx]")
pytest.importorskip("torch", reason="needs the extra limpq-deploy[train]")

import compiler  # noqa: E402
from compiler_files import FORMS, KINDS, Subject, files, subject_of  # noqa: E402
from torch import nn  # noqa: E402

from limpq_deploy.export.runtimes.tensorrt_rtx.bindings import installed_version  # noqa: E402
from limpq_deploy.export.runtimes.tensorrt_rtx.word import CompilerWord, compiler_word  # noqa: E402
from limpq_deploy.model.zoo import create_model  # noqa: E402

TABLE = ROOT / "tests/golden/compiler.json"
TEN_NETWORKS = ROOT / "benchmarks/compiler_x86.json"
GPUS = ("sm86", "sm89", "sm120")
OTHER_FORMS = ("w8a8", "mixed", "weights")
"""Kinds whose files of 8.6 and 11 are built as well."""


class Inverted(nn.Module):
    """A depthwise convolution between two of 1 x 1, a shortcut, a SiLU and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(8)
        self.expand = nn.Conv2d(8, 16, 1, bias=False)
        self.expand_bn = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(16)
        self.project = nn.Conv2d(16, 8, 1, bias=False)
        self.project_bn = nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(16, 10)
        self.relu, self.silu = nn.ReLU(), nn.SiLU()
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()

    def forward(self, images: Any) -> Any:
        import torch

        x = self.relu(self.stem_bn(self.stem(images)))
        y = self.silu(self.expand_bn(self.expand(x)))
        y = self.relu(self.depthwise_bn(self.depthwise(y)))
        x = x + self.project_bn(self.project(y))
        x = torch.cat([x, self.relu(self.branch(x))], dim=1)
        return self.head(self.flatten(self.pool(x)))


def subjects() -> Iterator[Subject]:
    model, info = create_model("resnet8")
    yield subject_of("resnet8", model, info.preprocess.shape if info.preprocess else (1, 16, 16))
    yield subject_of("inverted", Inverted(), (3, 16, 16))


def row(word: CompilerWord) -> dict[str, Any]:
    """What the table keeps of the compiler's word."""
    return {
        "kernels": word.kernels,
        "integer_layers": word.integer_layers,
        "planned": word.planned,
        "layers": word.layers,
        **(word.moved_bytes or {}),
    }


def made(
    form: str, kinds: tuple[str, ...], networks: tuple[str, ...] = ("resnet8", "inverted")
) -> Iterator[tuple[str, onnx.ModelProto]]:
    for subject in (one for one in subjects() if one.name in networks):
        for kind, model in files(subject, form, kinds):
            yield f"{subject.name} {form} {kind}", model


def words(named: Iterator[tuple[str, onnx.ModelProto]], gpus: tuple[str, ...] = GPUS) -> dict[str, CompilerWord]:
    """The compiler's word on each file; two processes at once."""
    with ThreadPoolExecutor(2) as pool:
        found = {name: pool.submit(compiler_word, model, gpus=gpus) for name, model in named}
        return {name: one.result() for name, one in found.items()}


def expect(found: dict[str, CompilerWord]) -> None:
    table = json.loads(TABLE.read_text())
    for name, word in found.items():
        assert word.accepted, f"{name}: {word.detail}"
        assert (word.as_floats, word.warnings) == ((), ()), name
        assert word.integer_layers == word.planned, name
    if installed_version() != table["compiler"]:
        pytest.skip(f"the table is of {table['compiler']}, and {installed_version()} is installed; renew it")
    assert {name: row(word) for name, word in found.items()} == {name: table["rows"][name] for name in found}


def test_every_kind_of_file_is_compiled_as_planned() -> None:
    expect(words(made("10", KINDS)))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "10"])
def test_files_of_other_versions_are_too(form: str) -> None:
    expect(words(made(form, OTHER_FORMS, ("resnet8",))))


@pytest.mark.slow
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("form", FORMS)
def test_each_capability_by_itself_gives_the_same_kernels(form: str, gpu: str) -> None:
    expect(words(made(form, KINDS), (gpu,)))


@pytest.mark.slow
@pytest.mark.parametrize("name", compiler.NETWORKS)
def test_files_of_ten_networks_are_as_in_the_committed_table(name: str) -> None:
    """At 8 bits, in the form of TensorRT 10; `benchmarks/compiler.py` makes all of them."""
    table = json.loads(TEN_NETWORKS.read_text())
    [(_, kind, model)] = compiler.made((name,), ("10",), ("w8a8",))
    word = compiler_word(model)
    assert (word.accepted, word.as_planned, word.warnings) == (True, True, ()), word.detail
    if compiler.compiler_name() == table["compiler"]:
        told, found = table["networks"][name][kind], compiler.row(word, 0)
        assert {**found, "seconds": told["seconds"]} == told


if __name__ == "__main__":
    rows = {name: row(word) for form in FORMS for name, word in words(made(form, KINDS)).items()}
    TABLE.write_text(json.dumps({"compiler": installed_version(), "gpus": GPUS, "rows": rows}, indent=1) + "\n")
