"""Text reaches a terminal through `answer` and `aside` alone, which let nothing through that it would obey."""

import ast
from pathlib import Path

import limpq_deploy

ROOT = Path(limpq_deploy.__file__).parent
SPEAKERS = ("click.echo", "click.secho", "print", "sys.stderr.write", "sys.stdout.write")
ALLOWED = {
    ROOT / "cli/output/answers.py": "where they are",
    ROOT / "cli/options/grouped_help.py": "help, which is our own text",
    ROOT / "export/runtimes/tensorrt_rtx/child.py": "a pipe",
    ROOT / "progress.py": "lines of a log, from a thread; made visible there",
}


def test_nothing_else_prints() -> None:
    found = {
        path: node.lineno
        for folder in (ROOT, ROOT / "export", ROOT / "calibration")  # links, which rglob does not follow
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SPEAKERS
    }
    assert {path: line for path, line in found.items() if path not in ALLOWED} == {}
    assert found.keys() == ALLOWED.keys()
