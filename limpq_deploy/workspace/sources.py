"""What a stage runs: the sources of ours that it can come to, and the libraries whose arithmetic they use.

Read off the import statements, nothing is run. In `stages` and `subject`, which know all that a build can do, single
functions are followed (a stage is what its function names); from any other module, all that it imports.
"""

import ast
import hashlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.in_memory import Given
from limpq_deploy.calibration.version import __version__

PACKAGE = "limpq_deploy"
ROOT = Path(__file__).parents[1]

HUBS = ("limpq_deploy.pipeline.stages.", "limpq_deploy.pipeline.context")
"""Modules in which single names are followed."""

SUBJECT, SUBJECTS = "Subject", ("subject", "self")
"""The class whose methods are followed one by one, and what its instances are called."""

PLUMBING = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        *("progress", "callbacks", "optional_packages"),
        *("pipeline.config", "pipeline.settings", "pipeline.setting_checks", "pipeline.toml_settings"),
        *("workspace.workspace", "workspace.step", "workspace.sources", "workspace.finished", "workspace.file_names"),
        *(
            "calibration.version",
            "calibration.errors",
            "calibration.files",
            "calibration.records",
            "calibration.shown",
            "calibration.record_faults",
        ),
    )
)
"""Modules that carry results and compute none: an edit there repeats nothing."""

RESOURCES = (".c", ".css", ".j2")
"""Files beside a module that it compiles or fills in."""

LIBRARIES = {
    **{name: name for name in ("torch", "torchvision", "timm", "numpy", "scipy", "onnx", "onnxruntime", "tensorrt")},
    **{"PIL": "pillow", "sklearn": "scikit-learn", "pulp": "pulp", "highspy": "highspy", "onnxscript": "onnxscript"},
}
"""Libraries whose arithmetic a result may depend on, and what their distributions are called."""

BROUGHT_ALONG = {
    "limpq_deploy.export.graph.from_torch": ("onnxscript",),
    "limpq_deploy.policy.solver.solvers": ("highspy",),
}
"""Libraries that another one calls for a module: torch's exporter, PuLP's solver."""

TABLES = {
    "limpq_deploy.model.zoo": "limpq_deploy.model.zoo",
    "limpq_deploy.export.qdq.build": "limpq_deploy.export.qdq",
    "limpq_deploy.export.lint.check": "limpq_deploy.export.lint",
    "limpq_deploy.export.runtimes": "limpq_deploy.export.runtimes",
}
"""Modules that find others by name, and the package that those lie in: what reaches one reaches all of it."""

IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]+)|import[ \t]+([^\n#]+))", re.M)
BY_NAME = re.compile(r"import_module\([\"'](\w+)")
TYPES_ONLY = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+[^\n]*\n|\n)+", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """``sources``: SHA-256 over all modules of ours; ``libraries``: version by distribution's name; ``modules``: what
    the hash is over, for people and tests."""

    sources: str
    libraries: dict[str, str]
    modules: tuple[str, ...]


def code_of(run: Callable[..., Any]) -> Code:
    """What a function of a stage runs: ``run`` is the function, or one defined in it."""
    return _code_of(run.__module__, run.__qualname__.partition(".<locals>")[0])


def user_sources(factory: Callable[..., Any]) -> str:
    """SHA-256 over a user's own module and those of its project that it imports: of its package where it is installed,
    of its folder and those below where it is not. "unknown" where there is no source; of an object that was given, its
    own digest."""
    if isinstance(factory, Given):
        return factory.digest
    source = inspect.getsourcefile(factory)
    if source is None:
        return "unknown"
    start, module = Path(source).resolve(), factory.__module__.split(".")
    root = start.parents[len(module) - (start.name != "__init__.py")]
    installed = {"site-packages", "dist-packages"} & set(root.parts)
    found, pending = set[Path](), [start, *_module_files(root, module)]
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found.add(path)
        for target, attribute in _imports_of(path.read_text(encoding="utf-8", errors="replace")):
            base = root
            if target.startswith("."):
                level = len(target) - len(target.lstrip("."))
                base = path.parents[level - 1]
            elif installed and target.split(".")[0] != module[0]:
                continue
            parts = [part for part in target.lstrip(".").split(".") if part]
            pending += [one for end in (parts, [*parts, attribute]) for one in _module_files(base, end)]
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(str(path.relative_to(root)).encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _module_files(base: Path, parts: list[str]) -> list[Path]:
    """The file of a module below a folder, with those of the packages that it lies in; empty where there is none."""
    if not parts or not parts[-1].isidentifier():
        return []
    path = base.joinpath(*parts)
    found = [one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()]
    packages = [base.joinpath(*parts[:end], "__init__.py") for end in range(1, len(parts))]
    return [*found, *(one for one in packages if one.is_file())] if found else []


@cache
def _code_of(module: str, function: str) -> Code:
    if module not in _modules():  # of a test, or installed without sources: the version stands for them
        return Code(sources="", libraries={PACKAGE: __version__}, modules=())
    modules, named = _reached(module, function)
    digest = hashlib.sha256()
    for name in sorted(modules):
        digest.update(f"{name} ".encode() + _hash_of(name))
    libraries = {LIBRARIES[name] for name in named} | {one for name in modules for one in BROUGHT_ALONG.get(name, ())}
    versions = {name: found for name in sorted(libraries) if (found := _version(name)) is not None}
    return Code(
        sources=digest.hexdigest(), libraries={PACKAGE: __version__, **versions}, modules=tuple(sorted(modules))
    )


def _reached(module: str, function: str) -> tuple[set[str], set[str]]:
    """Modules of ours that a function comes to, and libraries."""
    modules: set[str] = set()
    libraries: set[str] = set()
    names, seen = [(module, function)], set[tuple[str, str]]()
    whole: list[str] = []

    def take(target: str, attribute: str) -> None:
        if target.split(".")[0] != PACKAGE:
            libraries.add(target.split(".")[0])
        elif f"{target}.{attribute}" in _modules():
            take(f"{target}.{attribute}", "")
        elif _is_hub(target):
            names.append((target, attribute))
        elif target in _modules() and target not in PLUMBING:
            whole.append(target)

    while names or whole:
        if names:
            one = names.pop()
            if one not in seen:
                seen.add(one)
                modules.add(one[0])
                for found in _hub(one[0]).uses(one[1]):
                    take(*found)
            continue
        name = whole.pop()
        if name not in modules:
            modules.add(name)
            if name in TABLES:
                whole += [other for other in _modules() if other.startswith(f"{TABLES[name]}.")]
            for found in _imports(name):
                take(*found)
    return modules, libraries & LIBRARIES.keys()


class _Hub:
    """A module by its single names."""

    def __init__(self, module: str) -> None:
        self.module = module
        tree = ast.parse(_contents()[module][0][1])
        self._nodes: dict[str, list[ast.AST]] = {}
        self._imported: dict[str, tuple[str, str]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                self._imported |= {one.asname or one.name: (node.module, one.name) for one in node.names}
            elif isinstance(node, ast.Import):
                self._imported |= {(one.asname or one.name).split(".")[0]: (one.name, "") for one in node.names}
        for node in tree.body:
            for name in _defined(node):
                self._nodes.setdefault(name, []).append(node)
            if isinstance(node, ast.ClassDef) and node.name == SUBJECT:
                methods = [one for one in node.body if isinstance(one, ast.FunctionDef)]
                self._nodes |= {f"{SUBJECT}.{one.name}": [one] for one in methods}
                self._nodes[SUBJECT] = [one for one in methods if one.name == "__init__"]

    def uses(self, name: str) -> Iterator[tuple[str, str]]:
        """(module, name) of all that a name of this module refers to."""
        for node in self._nodes.get(name, ()):
            for found in _without_annotations(node):
                if isinstance(found, ast.Name) and found.id in self._imported:
                    yield self._imported[found.id]
                elif isinstance(found, ast.Name) and found.id in self._nodes:
                    yield self.module, found.id
                elif (
                    isinstance(found, ast.Attribute)
                    and isinstance(found.value, ast.Name)
                    and found.value.id in SUBJECTS
                ):
                    yield f"{PACKAGE}.pipeline.context", f"{SUBJECT}.{found.attr}"


def _defined(node: ast.stmt) -> list[str]:
    """Names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _without_annotations(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, but for types that are only written down."""
    pending: list[ast.AST] = [node]
    while pending:
        one = pending.pop()
        yield one
        for field, value in ast.iter_fields(one):
            if field not in ("annotation", "returns"):
                parts = value if isinstance(value, list) else [value]
                pending += [part for part in parts if isinstance(part, ast.AST)]


@cache
def _imports(module: str) -> tuple[tuple[str, str], ...]:
    """What a module of ours imports."""
    return tuple(_imports_of(_contents()[module][0][1].decode()))


def _imports_of(text: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import in a source, those within functions too; not of types that are only written
    down."""
    text = TYPES_ONLY.sub("", text)
    for source, names, plain in IMPORT.findall(text):
        if source:
            words = re.sub(r"#[^\n]*", "", names).strip("() \n\t").split(",")
            yield from ((source, word.split(" as ")[0].strip()) for word in words if word.strip())
        else:
            yield from ((word.split(" as ")[0].strip(), "") for word in plain.split(","))
    yield from ((name, "") for name in BY_NAME.findall(text))


def _is_hub(module: str) -> bool:
    return any(module == hub or (hub.endswith(".") and module.startswith(hub)) for hub in HUBS)


@cache
def _hub(module: str) -> _Hub:
    return _Hub(module)


def _modules() -> Collection[str]:
    """Every module of ours by its dotted name; packages by theirs."""
    return _contents().keys()


@cache
def _contents() -> dict[str, tuple[tuple[str, bytes], ...]]:
    """Kind and bytes of the files of every module, its source first. Read once, so that a stage which begins hours
    later is recorded with what this process runs, and not with what was edited since."""
    found = {}
    for folder in (ROOT, ROOT / "calibration", ROOT / "export"):  # links where the program runs from its checkout
        for path in folder.rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join((PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts)))
            found[name] = tuple((one.suffix, one.read_bytes()) for one in (path, *_beside(path)))
    return found


def _beside(source: Path) -> list[Path]:
    """What a module compiles or fills in: under its name, and for a package all that lies in its folder."""
    if source.name == "__init__.py":
        return sorted(one for one in source.parent.iterdir() if one.suffix in RESOURCES[1:])
    return [one for suffix in RESOURCES if (one := source.with_suffix(suffix)).is_file()]


@cache
def _hash_of(module: str) -> bytes:
    """Of a module's files."""
    digest = hashlib.sha256()
    for kind, data in _contents()[module]:
        digest.update(kind.encode() + hashlib.sha256(data).digest())
    return digest.digest()


@cache
def _version(distribution: str) -> str | None:
    for name in (distribution, f"{distribution}-gpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
