"""Hostile build folders and the commands that are given them: no traceback, no code run, no raw escape sequence, no
hang."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .onnx_files import ESCAPE, answer
from .tally import Tally

EVIL = """
from pathlib import Path
Path({mark!r}).write_text("ran")
def make(*arguments):
    raise ValueError("ran")
"""
COMMANDS = (
    "parity out",
    "ship out models --backend python",
    "preview out/policy.json --build out",
    "search out/indicators.json --like w4a4 --preview out -o new.json",
    "verify out/bundle",
    "build --out out --plan",
    "diff out/policy.json out/policy.json --indicators out/indicators.json",
    "lint out/model.qdq.onnx",
)
HUGE = 2**40
"""Bytes of a sparse file."""


def campaign(build: Path, scratch: Path, *, cases: int, seed: int) -> Tally:
    """``cases`` folders of every form in turn, each given to one command in a process of its own."""
    tally, rng = Tally("folders"), random.Random(seed)
    forms = list(FORMS.items())
    for case in range(cases):
        name, spoil = forms[case % len(forms)]
        here = scratch / f"case-{case}"
        here.mkdir()
        out = Path(shutil.copytree(build, here / "out", symlinks=True))
        (here / "build.toml").write_text('like = "w5a5"\n')
        mark = here / "mark"
        (here / "evil_module.py").write_text(EVIL.format(mark=str(mark)))
        os.environ["LIMPQ_CACHE"] = str(here / "cache")
        spoil(out)
        words = rng.choice(COMMANDS).split()
        outcome, failure = answer(words, here)
        if mark.exists():
            outcome, failure = "code run", "the planted module ran"
        tally.count(f"{words[0]}: {outcome}", failure and f"{name} given to {words[0]}, case {case}: {failure}")
        shutil.rmtree(here, ignore_errors=True)
    return tally


def _names_modules(out: Path, **named: Any) -> None:
    """Settings that name a module beside the folder, with hashes that fit."""
    _edit(out, "config.json", lambda config: config.update(named))


def _edit(out: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a record, and have ``stages.json`` tell the hash that it has now."""
    record = json.loads((out / name).read_text())
    change(record)
    (out / name).write_text(json.dumps(record))
    _fit(out, name)


def _fit(out: Path, name: str) -> None:
    stages = json.loads((out / "stages.json").read_text())
    digest = hashlib.sha256((out / name).read_bytes()).hexdigest()
    for outputs in (stages["written"], *(stage["outputs"] for stage in stages["stages"].values())):
        if name in outputs:
            outputs[name] = digest
    (out / "stages.json").write_text(json.dumps(stages))


def _replace(out: Path, name: str, make: Callable[[Path], object]) -> None:
    (out / name).unlink()
    make(out / name)


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(HUGE)


def _escapes_everywhere(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escapes_everywhere(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_escapes_everywhere(one) for one in value]
    return f"{value}{ESCAPE}" if isinstance(value, str) and not value.startswith("limpq.") else value


def _escapes(out: Path, name: str) -> None:
    record = _escapes_everywhere(json.loads((out / name).read_text()))
    (out / name).write_text(json.dumps(record))
    _fit(out, name)


def _planted_temporaries(out: Path) -> None:
    for name in ("stages.json", "config.json"):
        os.mkfifo(out / f".{name}.1.tmp")


def _escaping_records(out: Path) -> None:
    for name in ("policy.json", "indicators.json", "config.json", "placement.json"):
        _escapes(out, name)


def _planted_kernel(out: Path) -> None:
    """Every file that a cache could hold, planted in it, writable by all."""
    cache = out.parent / "cache"
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    for name in ("lsq-planted.so", "lsq-kernel.so", "trusted.json", "accepted.json"):
        (cache / name).write_bytes(b"\x7fELF planted")


def _planted_library(out: Path) -> None:
    for name in ("torch.py", "onnx.py", "numpy.py", "onnxruntime.py", "sitecustomize.py"):
        for folder in (out, out.parent):
            (folder / name).write_text(EVIL.format(mark=str(out.parent / "mark")))


def _escaping_bundle(out: Path) -> None:
    manifest = json.loads((out / "bundle/manifest.json").read_text())
    manifest["files"][0]["name"] = f"../../{ESCAPE}"
    manifest["model"] = ESCAPE
    (out / "bundle/manifest.json").write_text(json.dumps(manifest))


FORMS: dict[str, Callable[[Path], object]] = {
    "a model that is a module": lambda out: _names_modules(out, model="evil_module:make"),
    "data that is a module": lambda out: _names_modules(out, data="evil_module:make"),
    "libraries beside and in it": _planted_library,
    "a module in a package of its own": lambda out: _names_modules(out, model="out.evil_module:make"),
    "a planted cache": _planted_kernel,
    "a policy that is a pipe": lambda out: _replace(out, "policy.json", os.mkfifo),
    "a configuration that is a pipe": lambda out: _replace(out, "config.json", os.mkfifo),
    "a state that is a pipe": lambda out: _replace(out, "stages.json", os.mkfifo),
    "a lock that is a pipe": lambda out: _replace(out, ".lock", os.mkfifo),
    "a lock that is a link": lambda out: _replace(out, ".lock", lambda path: path.symlink_to("/etc/passwd")),
    "a policy that is a link": lambda out: _replace(out, "policy.json", lambda path: path.symlink_to("/dev/zero")),
    "a model that is a link": lambda out: _replace(out, "model.qdq.onnx", lambda path: path.symlink_to("/dev/zero")),
    "a huge policy": lambda out: _replace(out, "policy.json", _sparse),
    "a huge state": lambda out: _replace(out, "stages.json", _sparse),
    "a link that leads to itself": lambda out: _replace(
        out, "bundle/manifest.json", lambda path: path.symlink_to(path)
    ),
    "planted temporary files": _planted_temporaries,
    "names with escape sequences": lambda out: [(out / f"{ESCAPE}{number}").write_text("x") for number in range(3)],
    "escape sequences in every record": _escaping_records,
    "a bundle that leads out": _escaping_bundle,
    "a state of another kind": lambda out: (out / "stages.json").write_text('{"stages": [1], "written": 5}'),
}
"""By name: how a finished build's folder is spoiled."""
