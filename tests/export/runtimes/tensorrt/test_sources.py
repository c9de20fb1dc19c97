"""An engine that is kept is used again by the code that built it alone."""

import ast
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra limpq-deploy[cpu]")

from limpq_deploy.export.runtimes.tensorrt import runtime as trt
from limpq_deploy.export.runtimes.tensorrt.runtime import TensorRt
from limpq_deploy.export.runtimes.tensorrt.sources import FOLDER, SOURCES, builder_digest, digest_of

from .trt_stand_in import Builder, HostMemory

NO_PART = {"runtimes/cuda/driver.py", "runtimes/cuda/memory.py", "runtimes/tensorrt/log.py"}
"""What the builder's code imports though it decides nothing of an engine: is there a GPU, what is logged."""

ROOTS = ("runtimes/tensorrt/build.py", "graph/loading.py", "runtimes/tensorrt/inspect.py")
"""What builds, what reads a model before, what describes the engine afterwards."""


def imported(source: Path) -> set[str]:
    """Files of `export` that a file imports, by their paths in it."""
    names = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.ImportFrom)]
    modules = {name for node in names for name in (node.module, *(f"{node.module}.{one.name}" for one in node.names))}
    paths = {f"{name.removeprefix('limpq_deploy.export.').replace('.', '/')}.py" for name in modules if name}
    return {path for path in paths if (FOLDER / path).is_file()}


def test_every_file_that_the_builder_reads_its_code_from_counts() -> None:
    seen: set[str] = set()
    todo = set(ROOTS)
    while todo:
        seen |= todo
        todo = {found for path in todo - NO_PART for found in imported(FOLDER / path)} - seen
    assert seen - NO_PART <= set(SOURCES)
    assert len(seen) > len(ROOTS)
    assert all((FOLDER / name).is_file() for name in SOURCES)


def test_a_plan_of_other_code_is_not_used_again(
    memory: HostMemory, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan = TensorRt().built(model)
    assert TensorRt().built(model)[1] == plan
    monkeypatch.setattr(trt, "builder_digest", lambda: "of other code")
    assert TensorRt().built(model)[1] != plan
    assert Builder.builds == 2


def test_the_digest_changes_with_the_version_and_with_every_byte(tmp_path: Path) -> None:
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("x = 1\n")
    second.write_text("")
    found = {digest_of("0.1", [first, second]), digest_of("0.2", [first, second])}
    second.write_text("x = 1\n")
    found.add(digest_of("0.1", [first, second]))
    first.write_text("")
    found.add(digest_of("0.1", [first, second]))
    first.unlink()
    found.add(digest_of("0.1", [second]))
    assert len(found) == 5
    assert len(builder_digest()) == 64
