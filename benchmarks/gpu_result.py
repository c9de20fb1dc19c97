"""The benchmark's result as a file that survives: renewed after each part, with its page, and gone on with later.

A command on a GPU machine may be ended at any time. A part is marked before it begins; what is there with its result is
not done again in a later run with the same files on the same machine and versions. What was being measured when the
process ended has one more try in its place; what ended it twice, and what failed, comes last.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu_report import page

from limpq_deploy.calibration.files import sha256_of, write_text

ROOT = Path(__file__).resolve().parents[1]
CUT_SHORT = "the process ended while this was measured"


class Kept:
    """A result, and the file that it is kept in (None: nowhere)."""

    def __init__(self, identity: dict[str, Any], environment: dict[str, Any], output: Path | None) -> None:
        """Go on with the file's result where it is of this identity; one of another is put aside."""
        self._output, self._started = output, time.monotonic()
        found = _read(output)
        self.moved: Path | None = None
        if found is not None and not _fits(found, identity):
            assert output is not None
            self.moved = _free_name(output)
            output.replace(self.moved)
            found = None
        self.result: dict[str, Any] = found or {"identity": identity, "runs": 0, "self_tests": {}, "models": {}}
        self.result["identity"]["files"] |= identity["files"]
        self.result |= {"quick": identity["quick"], "environment": environment, "runs": self.result["runs"] + 1}
        self._code = code_digest()
        self._before = self.result.get("seconds", 0.0)

    def keep(self) -> None:
        self.result["seconds"] = round(self._before + time.monotonic() - self._started, 1)
        if self._output is None:
            return
        write_text(self._output, json.dumps(self.result, indent=1) + "\n")
        try:
            text = page(self.result)
        except (KeyError, TypeError, ValueError) as error:  # figures are worth more than their page
            text = f"The page could not be written ({type(error).__name__}: {error}); see {self._output.name}.\n"
        write_text(self._output.with_suffix(".md"), text)

    def set(self, model: str, part: str, found: dict[str, Any]) -> None:
        """Keep what came of a part now, and which code it came of."""
        self.result["models"].setdefault(model, {})[part] = found | {"code": self._code}
        self.keep()

    def begin(self, model: str, part: str) -> None:
        """Mark a part, for it may be the last thing that this process does."""
        self.set(model, part, {"failed": CUT_SHORT, "times": self.part(model, part).get("times", 0) + 1})

    def has(self, model: str, part: str) -> bool:
        """Whether a part has its result."""
        return "result" in self.part(model, part)

    def to_do(self, order: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Models and parts without a result, in their order; at the end those that failed, or were cut short twice."""

        def last(one: tuple[str, str]) -> bool:
            found = self.part(*one)
            return "failed" in found and found.get("times") != 1

        return sorted((one for one in order if not self.has(*one)), key=last)

    def part(self, model: str, part: str) -> dict[str, Any]:
        """What is there of a part; empty where it was never begun."""
        found: dict[str, Any] = self.result["models"].get(model, {}).get(part, {})
        return found


def files_digest(folders: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of every file of the models' folders, by "model/file"."""
    return {
        f"{folder.name}/{path.name}": sha256_of(path)
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def code_digest() -> str:
    """Of the code that measures: the version stays the same while it is worked at."""
    folders = (ROOT / "calibration", ROOT / "export", ROOT / "benchmarks")
    sources = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return hashlib.sha256("".join(sha256_of(path) for path in sources).encode()).hexdigest()[:12]


def _fits(found: dict[str, Any], identity: dict[str, Any]) -> bool:
    """Whether a result is of the same versions and machine, and of no other state of any file; it may be of other
    models."""
    known = found.get("identity", {})
    same = all(known.get(name) == identity[name] for name in identity if name != "files")
    files = known.get("files", {})
    return same and all(files.get(name, digest) == digest for name, digest in identity["files"].items())


def _free_name(output: Path) -> Path:
    names = (output.with_suffix(f".previous{number or ''}.json") for number in itertools.count())
    return next(path for path in names if not path.exists())


def _read(output: Path | None) -> dict[str, Any] | None:
    """A result that can be gone on with; a file that is none is put aside like one of another identity."""
    if output is None or not output.is_file():
        return None
    try:
        found = json.loads(output.read_text())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
