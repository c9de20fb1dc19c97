"""The house: imports point down one list of rooms, and what must stay light stays light."""

import ast
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
SOLVERS = ("pulp", "highspy", "scipy")
PICKLING = (
    *("pickle.dump", "pickle.dumps", "pickle.Pickler", "pickle.load", "pickle.loads", "pickle.Unpickler"),
    "torch.save",
)
ROOMS = (
    *("calibration", "calibration/numbers", "calibration/datasets"),
    *("export/records/targets", "export/records", "export/graph"),
    *("export/runtimes", "export/runtimes/cuda", "export/runtimes/onnxruntime", "export/runtimes/tensorrt"),
    "export/runtimes/tensorrt_rtx",
    *("export/qdq", "export/reference", "export/lint", "export/timing", "export/ship/triton", "export/ship"),
    *("limpq_deploy", "limpq_deploy/workspace"),
    *("limpq_deploy/policy/solver", "limpq_deploy/policy", "limpq_deploy/policy/interchange"),
    *("limpq_deploy/model", "limpq_deploy/model/zoo", "limpq_deploy/quant"),
    *("limpq_deploy/tasks", "limpq_deploy/train"),
    *("limpq_deploy/importance", "limpq_deploy/verdict", "limpq_deploy/latency", "limpq_deploy/report"),
    *("limpq_deploy/pipeline", "limpq_deploy/pipeline/stages", "limpq_deploy/serving", "limpq_deploy/api"),
    *("limpq_deploy/cli/output", "limpq_deploy/cli/options", "limpq_deploy/cli/commands", "limpq_deploy/cli"),
)
"""Every folder that holds code, from the ground up; a file imports from its own room and from those before it, inside
functions too. The ``__init__.py`` of a folder is its face: it may hand on what lies in the folders inside it."""

FLAT = {"limpq_deploy": 8, "export": 8}
"""How many files may lie flat."""

WITHOUT = {
    **dict.fromkeys(("calibration", "calibration/datasets", "export/records", "limpq_deploy"), HEAVY),
    **dict.fromkeys(("limpq_deploy/workspace", "limpq_deploy/verdict", "limpq_deploy/report"), HEAVY),
    **dict.fromkeys(("limpq_deploy/latency", "limpq_deploy/cli", "limpq_deploy/cli/commands"), HEAVY),
    **dict.fromkeys(("limpq_deploy/policy", "limpq_deploy/policy/solver"), (*HEAVY, *SOLVERS, "onnx")),
    **dict.fromkeys(("limpq_deploy/cli/output", "limpq_deploy/serving"), HEAVY),
    **{
        f"export/{room}": HEAVY
        for room in ("qdq", "reference", "lint", "timing", "ship", "runtimes", "runtimes/tensorrt", "runtimes/cuda")
    },
}
"""What importing every file of a room must not bring in."""

NEEDS_TORCH = ("calibration/observe.py", "calibration/batchnorm.py", "export/graph/from_torch.py")
"""Files of rooms without torch that are about torch."""


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


def module_name(path: Path) -> str:
    """``limpq_deploy.export.qdq.base`` of ``export/qdq/base.py``; a package by its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join((*(() if parts[0] == "limpq_deploy" else ("limpq_deploy",)), *parts)).removesuffix(".__init__")


MODULES = {module_name(path): path for path in SOURCES}


def room_of(path: Path) -> str:
    return str(path.parent.relative_to(ROOT))


def floor_of(path: Path) -> int:
    """Place in the list; a face stands above all rooms inside its folder."""
    room = room_of(path)
    if path == ROOT / "limpq_deploy/__init__.py":  # the commands are a layer over it
        return ROOMS.index("limpq_deploy/api")
    if path.name == "__init__.py":
        return max(floor for floor, one in enumerate(ROOMS) if one == room or one.startswith(f"{room}/"))
    return ROOMS.index(room)


def ours(name: str) -> Path | None:
    """The file that a dotted name is of, or is a name in; None for names of other packages."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return MODULES.get(name)


def points_up(path: Path, name: str) -> bool:
    """Whether an import leads to a higher room, or past the packages' own names."""
    target = ours(name)
    if target is None or target == path:
        return is_or_below(name, "calibration", "export")
    return target.parent != path.parent and floor_of(target) > floor_of(path)


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


def test_every_folder_with_code_has_its_place() -> None:
    found = {room_of(path) for path in SOURCES if path.name != "__init__.py"}
    assert found == set(ROOMS)


def test_few_files_lie_flat() -> None:
    for folder, most in FLAT.items():
        assert len(list((ROOT / folder).glob("*.py"))) <= most, folder


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_points_up(path: Path) -> None:
    if path == ROOT / "limpq_deploy/__main__.py":  # the door: it calls the command line
        return
    found = imports(ast.parse(path.read_text()))
    assert not [f"{path.name}:{line} imports {name}" for line, name in found if points_up(path, name)]


@pytest.mark.parametrize(
    "path",
    [path for path, layer in SOURCES.items() if layer == "export" and path != ROOT / "export/graph/from_torch.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_in_export_only_one_file_knows_torch(path: Path) -> None:
    assert not [name for _, name in imports(ast.parse(path.read_text())) if is_or_below(name, *TORCH)]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "calibration/datasets").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_importing_a_data_set_imports_no_torch(path: Path) -> None:
    assert not [name for _, name in at_import_time(ast.parse(path.read_text())) if is_or_below(name, *TORCH)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_written_as_a_pickle_and_none_is_read_that_could_run_code(path: Path) -> None:
    assert not list(unsafe_pickles(ast.parse(path.read_text())))


@pytest.mark.parametrize("room", WITHOUT)
def test_importing_a_room_brings_in_nothing_that_it_must_not_load(room: str) -> None:
    files = [path for path in SOURCES if room_of(path) == room and str(path.relative_to(ROOT)) not in NEEDS_TORCH]
    names = [name for name, path in MODULES.items() if path in files and name != "limpq_deploy.__main__"]
    code = f"import sys, {', '.join(names)}; print(*(name for name in {WITHOUT[room]} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_rules_above_find_what_they_forbid() -> None:
    tree = ast.parse("import torch.nn\ndef f():\n    import torch\nfrom limpq_deploy.export import qdq\n")
    assert [name for _, name in imports(tree)] == ["torch.nn", "limpq_deploy.export.qdq", "torch"]
    assert {name for _, name in at_import_time(tree)} == {"torch.nn", "limpq_deploy.export.qdq"}
    grid, qdq = MODULES["limpq_deploy.calibration.numbers.grid"], MODULES["limpq_deploy.export.qdq.base"]
    assert points_up(grid, "limpq_deploy.export.qdq.base.walk")
    assert points_up(qdq, "limpq_deploy.policy.policy")
    assert points_up(qdq, "export.qdq.onnxruntime")
    assert not points_up(qdq, "limpq_deploy.calibration.numbers.grid.QuantGrid")
    assert not points_up(MODULES["limpq_deploy.cli.main"], "limpq_deploy.export.qdq.base")
    assert not points_up(qdq, "numpy.typing")
    assert len(SOURCES) > 20
    bad = "pickle.dump(x, f); pickle.loads(b); torch.save(x, f); torch.load(f); np.load(f, allow_pickle=True)"
    assert len(list(unsafe_pickles(ast.parse(bad)))) == 5
    good = "class Strict(pickle.Unpickler): ...\nStrict(f).load(); torch.load(f, weights_only=True); np.load(f)"
    assert not list(unsafe_pickles(ast.parse(good)))
