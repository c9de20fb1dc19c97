"""Every name that our code uses of TensorRT's bindings exists in 8.6, 10 and 11, or is asked for with ``hasattr``.

``tests/golden/tensorrt_names.json`` lists the names that are used, with the versions that have them; it was cut out of
the lists of the real bindings (shared/brief/tensorrt_api.json) by

    python tests/export/runtimes/tensorrt/test_tensorrt_names.py LIST.json
"""

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
TABLE = ROOT / "tests/golden/tensorrt_names.json"
SOURCES = sorted((ROOT / "export/runtimes/tensorrt").glob("*.py"))

MODULE = "module"
RESULTS = {
    "Builder.create_network": "INetworkDefinition",
    "Builder.create_builder_config": "IBuilderConfig",
    "Builder.create_optimization_profile": "IOptimizationProfile",
    "Builder.build_serialized_network": "IHostMemory",
    "INetworkDefinition.get_input": "ITensor",
    "OnnxParser.get_error": "ParserError",
    "IBuilderConfig.create_timing_cache": "ITimingCache",
    "IBuilderConfig.get_timing_cache": "ITimingCache",
    "ITimingCache.serialize": "IHostMemory",
    "Runtime.deserialize_cuda_engine": "ICudaEngine",
    "ICudaEngine.create_execution_context": "IExecutionContext",
    "ICudaEngine.create_engine_inspector": "EngineInspector",
}
"""Types of results that are objects of TensorRT; all others are numbers, texts and shapes."""

OURS = {"load_bindings": MODULE, "make_logger": "ILogger", "make_monitor": "IProgressMonitor"}
"""Functions of ours that give such objects."""

TELLING = ("parse", "serialize", "profiler")
"""Members of one word that other objects seldom have; names of several words are taken for TensorRT's anyway."""


@dataclass
class Use:
    """A member of a class, or a class of the module; ``guarded``: behind a ``hasattr`` for it."""

    owner: str
    name: str
    line: int
    guarded: bool


@dataclass
class Walk(ast.NodeVisitor):
    """Follows TensorRT's objects through one file. Types come from annotations ``"trt.X"``, from constructors and from
    `RESULTS`; names called ``trt`` are the module."""

    uses: list[Use] = field(default_factory=list)
    asked: list[Use] = field(default_factory=list)
    unknown: list[tuple[int, str]] = field(default_factory=list)
    names: list[dict[str, str]] = field(default_factory=lambda: [{}])
    guards: list[set[tuple[str, str]]] = field(default_factory=lambda: [set()])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        parents = [self.type_of(base) for base in node.bases]
        for base in node.bases:
            self.visit(base)
        for parent in filter(None, parents):
            owner = parent.removeprefix("class ")
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                    self.use(owner, item.name, item.lineno)
        self.names.append({})
        for _ in range(2):  # attributes that a later method sets
            for item in node.body:
                self.visit(item)
        self.names.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        known = {}
        for argument in (*node.args.args, *node.args.kwonlyargs):
            text = argument.annotation.value if isinstance(argument.annotation, ast.Constant) else None
            if isinstance(text, str) and text.startswith("trt."):
                known[argument.arg] = text.removeprefix("trt.")
        self.names.append(known)
        self.guards.append(set())
        self.block(node.body)
        self.guards.pop()
        own = {name: found for name, found in self.names.pop().items() if name.startswith("self.")}
        self.names[-1].update(own)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self.guarded_by(node.test, node.body)
        self.block(node.orelse)
        missing = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
        if missing and isinstance(node.body[-1], ast.Return | ast.Raise):
            self.guards[-1] |= self.asked_in(node.test)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.guards.append(set())
        for value in node.values:
            self.visit(value)
            self.guards[-1] |= self.asked_in(value)
        self.guards.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for one, value in pairs:
                found = self.type_of(value)
                if found is not None:
                    self.names[-1][ast.unparse(one)] = found
                if isinstance(one, ast.Attribute):
                    self.visit(one)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.visit(node.iter)
        found = self.type_of(node.iter)
        if found is not None and found.startswith("list "):
            self.names[-1][ast.unparse(node.target)] = found.removeprefix("list ")
        for test in node.ifs:
            self.visit(test)

    def comprehension(self, node: Any) -> None:
        for generator in node.generators:
            self.visit(generator)
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.visit(part)

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = comprehension

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.visit(node.value)
        owner = self.type_of(node.value)
        if owner is None:
            self.unknown.append((node.lineno, f"{ast.unparse(node.value)}.{node.attr}"))
        elif not owner.startswith("list ") and not node.attr.startswith("__"):
            self.use(owner.removeprefix("class "), node.attr, node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        for owner, name in self.asked_in(node) if ast.unparse(node.func) == "hasattr" else ():
            self.asked.append(Use(owner, name, node.lineno, True))
        self.generic_visit(node)

    def block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    def guarded_by(self, test: ast.expr, body: list[ast.stmt]) -> None:
        negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        self.guards.append(set() if negated else self.asked_in(test))
        self.block(body)
        self.guards.pop()

    def asked_in(self, node: ast.AST) -> set[tuple[str, str]]:
        """Names that a condition asks for with ``hasattr``."""
        found = set()
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "hasattr":
                owner, name = self.type_of(call.args[0]), call.args[1]
                if owner is not None and isinstance(name, ast.Constant):
                    found.add((owner.removeprefix("class "), str(name.value)))
        return found

    def use(self, owner: str, name: str, line: int) -> None:
        self.uses.append(Use(owner, name, line, any((owner, name) in guards for guards in self.guards)))

    def type_of(self, node: ast.expr) -> str | None:
        """`MODULE`, "class X" for X itself, "X" for an object of it, "list X"; None for what is not TensorRT's."""
        text = ast.unparse(node)
        if text in ("trt", "self._trt", "tensorrt"):
            return MODULE
        for names in reversed(self.names):
            if text in names:
                return names[text]
        if isinstance(node, ast.Attribute) and self.type_of(node.value) == MODULE and node.attr[0].isupper():
            return f"class {node.attr}"
        if isinstance(node, ast.ListComp):
            found = self.type_of(node.elt)
            return None if found is None else f"list {found}"
        if isinstance(node, ast.Call):
            called = self.type_of(node.func)
            if called is not None and called.startswith("class "):
                return called.removeprefix("class ")
            if isinstance(node.func, ast.Attribute) and (owner := self.type_of(node.func.value)) is not None:
                return RESULTS.get(f"{owner}.{node.func.attr}")
            return OURS.get(text.partition("(")[0])
        return None


def walked(source: str) -> Walk:
    walk = Walk()
    walk.visit(ast.parse(source))
    return walk


def versions_of(lists: dict[str, Any]) -> dict[str, dict[str, set[str]]]:
    """Names by version and owner, from lists as in the shared file; classes are members of the module."""
    return {
        version: {
            MODULE: set(classes),
            **{name: set(entry.get("members", entry.get("enum"))) for name, entry in classes.items()},
        }
        for version, classes in lists.items()
    }


def breaches(walk: Walk, versions: dict[str, dict[str, set[str]]]) -> Iterator[str]:
    """Uses that some version cannot serve, and objects whose type the walk does not know."""
    everything = {name for owners in versions.values() for names in owners.values() for name in names}
    telling = {name for name in everything if "_" in name or name in TELLING}
    for use in (*walk.uses, *walk.asked):
        having = [version for version, owners in versions.items() if use.name in owners.get(use.owner, ())]
        if not having:
            yield f"line {use.line}: no version has {use.owner}.{use.name}"
        elif not use.guarded and len(having) < sum(use.owner in owners for owners in versions.values()):
            yield f"line {use.line}: {use.owner}.{use.name} is in {', '.join(having)} alone and is not asked for first"
    for line, text in walk.unknown:
        if text.rpartition(".")[2] in telling:
            yield f"line {line}: {text} looks like TensorRT's, and its type is not known; annotate it"


def table_of(walks: list[Walk], lists: dict[str, Any]) -> dict[str, Any]:
    """The used part of the lists."""
    versions = versions_of(lists)
    used = sorted({(use.owner, use.name) for walk in walks for use in (*walk.uses, *walk.asked)})
    return {
        "what": "names of TensorRT's Python bindings that this program uses, and the versions that have them; written "
        "by tests/export/runtimes/tensorrt/test_tensorrt_names.py",
        "versions": list(versions),
        "names": {
            f"{owner}.{name}": [version for version, owners in versions.items() if name in owners.get(owner, ())]
            for owner, name in used
        },
    }


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, set[str]]]:
    """The committed table, in the form of `versions_of`."""
    stored = json.loads(TABLE.read_text())
    found: dict[str, dict[str, set[str]]] = {version: {} for version in stored["versions"]}
    for name, versions in stored["names"].items():
        owner, _, member = name.partition(".")
        for version in versions:
            found[version].setdefault(owner, set()).add(member)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_name_is_in_all_three_versions_or_is_asked_for(path: Path, table: dict[str, Any]) -> None:
    assert list(table) == ["8.6.0", "10.16.1.11", "11.4.0.106"]
    assert list(breaches(walked(path.read_text()), table)) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_against_the_whole_lists_nothing_is_overlooked(path: Path, shared: Path) -> None:
    lists = json.loads((shared / "brief/tensorrt_api.json").read_text())["versions"]
    assert list(breaches(walked(path.read_text()), versions_of(lists))) == []


def test_the_table_is_what_the_code_uses(shared: Path) -> None:
    lists = json.loads((shared / "brief/tensorrt_api.json").read_text())["versions"]
    assert json.loads(TABLE.read_text()) == table_of([walked(path.read_text()) for path in SOURCES], lists)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "def f(trt, config: 'trt.IBuilderConfig'):\n    config.set_flag(trt.BuilderFlag.INT8)",
            "BuilderFlag.INT8 is in",
        ),
        ("def f(trt):\n    trt.Builder(None).build_engine()", "Builder.build_engine is in 8.6.0 alone"),
        ("def f(engine: 'trt.ICudaEngine'):\n    engine.num_bindings", "ICudaEngine.num_bindings is in 8.6.0 alone"),
        ("def f(trt):\n    hasattr(trt.BuilderFlag, 'FP17')", "no version has BuilderFlag.FP17"),
        ("def f(thing):\n    thing.execute_async_v3(0)", "its type is not known"),
        (
            "def f(trt, c: 'trt.IBuilderConfig'):\n    if not hasattr(trt.BuilderFlag, 'FP16'):\n"
            "        c.set_flag(trt.BuilderFlag.FP16)",
            "BuilderFlag.FP16 is in",
        ),
        ("class Log:\n    pass\ndef f(trt):\n    class L(trt.ILogger):\n        def write(self): ...", "ILogger.write"),
    ],
)
def test_the_walk_finds_names_that_a_version_lacks(source: str, said: str, shared: Path) -> None:
    lists = json.loads((shared / "brief/tensorrt_api.json").read_text())["versions"]
    found = list(breaches(walked(source), versions_of(lists)))
    assert len(found) == 1
    assert said in found[0]


def test_a_name_that_is_asked_for_first_is_no_breach(shared: Path) -> None:
    lists = json.loads((shared / "brief/tensorrt_api.json").read_text())["versions"]
    source = (
        "def f(trt, config: 'trt.IBuilderConfig', quantized):\n"
        "    if quantized and hasattr(trt.BuilderFlag, 'INT8'):\n"
        "        config.set_flag(trt.BuilderFlag.INT8)\n"
        "    if not hasattr(trt, 'IProgressMonitor'):\n"
        "        return None\n"
        "    return trt.IProgressMonitor\n"
    )
    assert list(breaches(walked(source), versions_of(lists))) == []


if __name__ == "__main__":
    shared_lists = json.loads(Path(sys.argv[1]).read_text())["versions"]
    TABLE.write_text(
        json.dumps(table_of([walked(path.read_text()) for path in SOURCES], shared_lists), indent=1) + "\n"
    )
