"""Write the lists of docs/models.md from the tables and sentences of the model's code: python docs/renew_refusals.py

Sentences are read from the source, so that none is told otherwise than it is raised; `…` stands for what differs from
network to network.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import limpq_deploy.model as room
from limpq_deploy.model.canonical import GATES
from limpq_deploy.model.enlarging import enlarged
from limpq_deploy.model.functions import FUNCTIONS
from limpq_deploy.model.operations import FUNCTION_KINDS, METHOD_KINDS, MODULE_KINDS, WRITTEN_KINDS

PAGE = Path(__file__).with_name("models.md")
SOURCES = sorted(Path(str(room.__file__)).parent.glob("*.py"))
WHY_FLOAT = ("layers.py", "_kind")
"""The function whose sentences send an operator into float and stop nothing."""
LINES = ("written_at", "here", "_here", "line_of", "line_of_stack", "line")
"""Functions that give the user's line."""
KINDS = {
    "layer": "layers",
    "batchnorm": "folded into the layer before",
    "relu": "cut with the layer or sum before",
    "gate": "gates",
    "add": "sums",
    "mul": "products",
    "concat": "joins",
    "pool": "average pools",
    "through": "moves of codes",
}


def renewed(text: str) -> str:
    """The page with its lists as the code says today."""
    for name, found in (("integers", integers()), ("floats", sentences(floats=True)), ("refusals", sentences())):
        text = re.sub(
            rf"(<!-- {name}: .*-->\n).*?(<!-- end of {name} -->)",
            lambda match, found=found: f"{match[1]}\n{chr(10).join(found)}\n\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
    return text


def integers() -> list[str]:
    """A row for each kind of operation that runs in integers."""
    named: dict[str, set[str]] = {}
    tables = (MODULE_KINDS, FUNCTION_KINDS, METHOD_KINDS, WRITTEN_KINDS)
    for called, kind in (pair for table in tables for pair in table.items()):
        if getattr(called, "__module__", "") != enlarged.__module__:  # a user never calls ours
            named.setdefault(KINDS[kind], set()).add(_name(called))
    named["products with a gate"] = {_name(one) for one in GATES}
    named["tables of 256 entries"] = {_name(one) for one in FUNCTIONS}
    rows = [
        f"| {kind} | {', '.join(f'`{one}`' for one in sorted(names, key=lambda one: (one.lower(), one)))} |"
        for kind, names in named.items()
    ]
    return ["| as | operators |", "|---|---|", *rows]


def _name(called: Any) -> str:
    return called if isinstance(called, str) else called.__name__.lstrip("_")


def sentences(*, floats: bool = False) -> list[str]:
    """Why operators run in float, or what stops a network, a line each."""
    found = (sentence for source in SOURCES for sentence in _of_file(source, floats=floats))
    return [f"- {sentence}" for sentence in dict.fromkeys(found)]


def _of_file(source: Path, *, floats: bool) -> Iterator[str]:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    functions = {one.name: one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)}
    to_float = _called_from(WHY_FLOAT[1], functions) if source.name == WHY_FLOAT[0] else set()
    for name, function in functions.items():
        if (name in to_float) != floats:
            continue
        for call in _calls(function, "ModelError", "add"):
            for sentence in _raised(call.args[:1], function, functions):
                for filled in _fillings(function, tree):
                    yield _told(sentence, filled)


def _called_from(name: str, functions: dict[str, ast.FunctionDef]) -> set[str]:
    """A function and those of its file that it calls, and so on."""
    found: set[str] = set()
    left = {name}
    while left:
        found |= left
        left = {_called(call) for one in left for call in _calls(functions[one])} & functions.keys() - found
    return found


def _calls(inside: ast.AST, *names: str) -> Iterator[ast.Call]:
    """Calls within a tree, of these names or of any."""
    for one in ast.walk(inside):
        if isinstance(one, ast.Call) and (not names or _called(one) in names):
            yield one


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _raised(given: list[ast.expr], function: ast.FunctionDef, functions: dict[str, ast.FunctionDef]) -> list[ast.expr]:
    """The sentences that an error is made with: itself, or what the function yields whose results are raised."""
    if given and _is_sentence(given[0]):
        return given
    for loop in ast.walk(function):
        if given and isinstance(loop, ast.For) and ast.dump(loop.target).replace("Store", "Load") == ast.dump(given[0]):
            maker = functions.get(_called(loop.iter)) if isinstance(loop.iter, ast.Call) else None
            made = [one.value for one in ast.walk(maker) if isinstance(one, ast.Yield)] if maker else []
            return [one for one in made if one is not None and _is_sentence(one)]
    return []


def _is_sentence(one: ast.expr) -> bool:
    return isinstance(one, ast.JoinedStr) or (isinstance(one, ast.Constant) and isinstance(one.value, str))


def _fillings(function: ast.FunctionDef, tree: ast.AST) -> list[dict[str, ast.expr]]:
    """What the callers in the file write for a function's parameters, where those are sentences."""
    names = [one.arg for one in function.args.args if one.arg != "self"]
    given = [dict(zip(names, call.args, strict=False)) for call in _calls(tree, function.name)]
    written = [{name: one for name, one in each.items() if _is_sentence(one)} for each in given]
    return [each for each in written if each] or [{}]


def _told(one: ast.expr, filled: dict[str, ast.expr]) -> str:
    """A sentence with `…` for what differs, and with a line where it names one."""
    if isinstance(one, ast.Constant):
        return str(one.value)
    assert isinstance(one, ast.JoinedStr)
    return "".join(
        _part(value.value if isinstance(value, ast.FormattedValue) else value, filled) for value in one.values
    )


def _part(one: ast.expr, filled: dict[str, ast.expr]) -> str:
    if isinstance(one, ast.Constant):
        return str(one.value)
    if isinstance(one, ast.Name) and one.id in filled:
        return _told(filled[one.id], {})
    if any(_called(call) in LINES for call in _calls(one)):
        return " (file.py:12)"
    return "…"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
