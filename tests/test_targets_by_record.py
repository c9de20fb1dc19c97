"""A target is known by its record: no code of the program asks for one by name."""

import ast
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from limpq_deploy.export.records.targets import RUNTIMES, TARGETS

ROOT = Path(__file__).resolve().parents[1]
NAMES = frozenset((*TARGETS, *RUNTIMES, "tensorrt_rtx"))
CONSTANTS = frozenset(name.upper().replace("-", "_") for name in NAMES)
TABLES = ("export/records/targets",)
"""Where records stand."""

SOURCES = [
    path
    for room in ("calibration", "export", "limpq_deploy")
    for path in sorted((ROOT / room).rglob("*.py"))
    if path.relative_to(ROOT).parts[:2] not in (("limpq_deploy", "calibration"), ("limpq_deploy", "export"))
]


def named(node: ast.AST, constants: Collection[str]) -> Iterator[str]:
    """Targets and runtimes that an expression names, by a text or by a constant."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and part.value in NAMES:
            yield str(part.value)
        elif isinstance(part, ast.Name) and part.id in constants:
            yield part.id
        elif isinstance(part, ast.Attribute) and part.attr in constants:
            yield part.attr


def constants_of(tree: ast.Module) -> set[str]:
    """The records' own constants, and what a module calls a name or several."""
    found = set(CONSTANTS)
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.Tuple | ast.List | ast.Set):
            names = {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
            found |= names if any(named(node.value, found)) else set()
    return found


def branches(source: str) -> list[tuple[int, str]]:
    """(line, name) of every comparison, ``in``, case and ``startswith`` with the name of a target or a runtime, and of
    every look-up by one."""
    found: list[tuple[int, str]] = []
    tree = ast.parse(source)
    constants = constants_of(tree)
    for node in ast.walk(tree):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        elif isinstance(node, ast.Subscript) and not (isinstance(node.value, ast.Name) and node.value.id == "Literal"):
            asked = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = list(node.args) if node.func.attr in ("startswith", "endswith", "get", "__eq__") else []
        found += [(part.lineno, name) for part in asked for name in named(part, constants)]
    return found


@pytest.mark.parametrize(
    "text",
    [
        'if config.target == "tensorrt": pass',
        'if "onnxruntime" != runtime.name: pass',
        'x = target in ("reference", other)',
        "x = target is TENSORRT",
        "x = target == targets.TENSORRT",
        "x = TENSORRT.runtime in (a, b)",
        'x = name.startswith("tensorrt")',
        'match target:\n case "tensorrt_rtx": pass',
        'x = DIALECTS["tensorrt"]',
        'x = {"tensorrt": 1}.get("tensorrt", 2)',
        'ON_CPU = "onnxruntime"\nx = runtime.name == ON_CPU',
        'ENGINES = ("tensorrt", "tensorrt_rtx")\nx = target in ENGINES',
    ],
)
def test_a_branch_on_a_name_is_found_however_it_is_written(text: str) -> None:
    assert branches(text)


@pytest.mark.parametrize("text", ['name = "tensorrt"', 'x = runtime_named("onnxruntime")', 'x = one.device == "cpu"'])
def test_a_name_that_decides_nothing_is_none(text: str) -> None:
    assert not branches(text)


def test_no_code_outside_the_records_asks_for_a_target_by_name() -> None:
    assert len(SOURCES) > 200
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in SOURCES
        if not str(path.relative_to(ROOT)).startswith(TABLES)
        for line, name in branches(path.read_text())
    ]
    assert found == []
