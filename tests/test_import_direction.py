"""Arrows of import point one way: limpq_deploy -> export -> calibration; light modules stay light."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    **dict.fromkeys(sorted((ROOT / "calibration").rglob("*.py")), "calibration"),
    **dict.fromkeys(sorted((ROOT / "export").rglob("*.py")), "export"),
    **{
        path: "limpq_deploy"
        for path in sorted((ROOT / "limpq_deploy").rglob("*.py"))
        if path.relative_to(ROOT / "limpq_deploy").parts[0] not in ("calibration", "export")
    },
}
TORCH = ("torch", "torchvision", "safetensors.torch", "timm")
HEAVY = ("torch", "torchvision", "onnxruntime", "sklearn", "tensorrt", "timm")
PICKLING = (
    *("pickle.dump", "pickle.dumps", "pickle.Pickler", "pickle.load", "pickle.loads", "pickle.Unpickler"),
    "torch.save",
)
LIGHT = (
    "limpq_deploy.cli.main",
    "limpq_deploy.policy.costs",
    "limpq_deploy.train.evaluate",
    "limpq_deploy.policy.indicators",
    "limpq_deploy.verdict.checks",
    "limpq_deploy.policy.policy",
    "limpq_deploy.policy.solver.program",
    "limpq_deploy.verdict.record",
    "limpq_deploy.calibration.records",
    "limpq_deploy.calibration.datasets",
    "limpq_deploy.export.ship.bundle",
    "limpq_deploy.export.timing.report",
    "limpq_deploy.export.records.placement",
    "limpq_deploy.export.records.targets",
    "limpq_deploy.export.ship.verify",
    "limpq_deploy.export.runtimes",
)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import below a node; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def at_import_time(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports that run when the module is imported: outside functions and ``if TYPE_CHECKING``."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        pending.extend(ast.iter_child_nodes(node))


def is_or_below(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def may_import(layer: str, name: str) -> bool:
    if not is_or_below(name, "limpq_deploy"):
        return not is_or_below(name, "calibration", "export")
    if layer == "calibration":
        return is_or_below(name, "limpq_deploy.calibration")
    if layer == "export":
        return is_or_below(name, "limpq_deploy.calibration", "limpq_deploy.export", "limpq_deploy.__version__")
    return True


def unsafe_pickles(tree: ast.AST) -> Iterator[str]:
    """Whatever writes a pickle, or reads one without restriction.

    Allowed: a subclass of ``pickle.Unpickler`` with its own ``find_class`` (for other people's files), and
    ``torch.load`` with ``weights_only=True``.
    """
    for _, name in imports(tree):
        if is_or_below(name, "cloudpickle", "dill", "joblib", "marshal", "shelve") or name.startswith("pickle."):
            yield f"import {name}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        words = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called in PICKLING or words.get("allow_pickle", "False") != "False":
            yield ast.unparse(node)
        if called == "torch.load" and words.get("weights_only") != "True":
            yield ast.unparse(node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_points_back_up(path: Path) -> None:
    wrong = [
        f"{path.name}:{line} imports {name}"
        for line, name in imports(ast.parse(path.read_text()))
        if not may_import(SOURCES[path], name)
    ]
    assert not wrong


@pytest.mark.parametrize(
    "path",
    [path for path, layer in SOURCES.items() if layer == "export" and path != ROOT / "export/graph/from_torch.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_in_export_only_graph_knows_torch(path: Path) -> None:
    assert not [name for _, name in imports(ast.parse(path.read_text())) if is_or_below(name, *TORCH)]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "calibration/datasets").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_importing_a_data_set_imports_no_torch(path: Path) -> None:
    assert not [name for _, name in at_import_time(ast.parse(path.read_text())) if is_or_below(name, *TORCH)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_written_as_a_pickle_and_none_is_read_that_could_run_code(path: Path) -> None:
    assert not list(unsafe_pickles(ast.parse(path.read_text())))


@pytest.mark.parametrize("module", [name for name in LIGHT if importlib.util.find_spec(name)])
def test_a_light_module_brings_in_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_rules_above_find_what_they_forbid() -> None:
    tree = ast.parse("import torch.nn\ndef f():\n    import torch\nfrom limpq_deploy.export import qdq\n")
    assert [name for _, name in imports(tree)] == ["torch.nn", "limpq_deploy.export.qdq.build", "torch"]
    assert {name for _, name in at_import_time(tree)} == {"torch.nn", "limpq_deploy.export.qdq.build"}
    assert not may_import("calibration", "limpq_deploy.export.qdq.build")
    assert not may_import("export", "limpq_deploy.policy.policy")
    assert not may_import("export", "export.qdq")
    assert may_import("limpq_deploy", "limpq_deploy.export.qdq.build")
    assert len(SOURCES) > 20
    bad = "pickle.dump(x, f); pickle.loads(b); torch.save(x, f); torch.load(f); np.load(f, allow_pickle=True)"
    assert len(list(unsafe_pickles(ast.parse(bad)))) == 5
    good = "class Strict(pickle.Unpickler): ...\nStrict(f).load(); torch.load(f, weights_only=True); np.load(f)"
    assert not list(unsafe_pickles(ast.parse(good)))
