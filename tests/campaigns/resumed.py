"""Whether two builds of the same settings ended in the same files: byte for byte, but for what a clock says."""

import json
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.ship.verify import verify_bundle
from limpq_deploy.workspace.finished import BuildFiles
from limpq_deploy.workspace.workspace import STATE, BuildState

MEASURED = ("latency.json", "latency-study.json", "audit.json", "verdict.json", "report.html", "manifest.json", STATE)
"""Files of latencies: no two runs measure the same, so these are there, whole, and as their stage wrote them."""

CLOCKS = frozenset(("seconds", "images_per_second"))
"""Fields of other records that say how long something took."""


def differences(found: Path, expected: Path) -> list[str]:
    """Files that are not the same in both folders, and what does not belong there."""
    names = sorted({str(one.relative_to(folder)) for folder in (found, expected) for one in _files(folder)})
    return [name for name in names if not _same(found / name, expected / name)] + _damaged(found)


def _files(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if not one.is_dir()]


def _same(found: Path, expected: Path) -> bool:
    if not (found.is_file() and expected.is_file()):
        return False
    if found.name in MEASURED or found.read_bytes() == expected.read_bytes():
        return True
    if found.suffix not in (".json", ".jsonl"):
        return False
    return [*map(_timeless, _documents(found))] == [*map(_timeless, _documents(expected))]


def _documents(path: Path) -> list[Any]:
    text = path.read_text()
    return [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(one) for name, one in value.items() if name not in CLOCKS}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def _damaged(build: Path) -> list[str]:
    """Outputs that are not what their stage recorded, and a bundle that does not verify."""
    files, problems = BuildFiles(build), []
    for done in load_record(BuildState, build / STATE).stages.values():
        for name in done.outputs:
            try:
                files.path(name)
            except LimpqError as error:
                problems.append(str(error))
    for manifest in build.glob("*bundle/manifest.json"):
        verify_bundle(manifest.parent)
    return problems
