"""Finished builds read back from their folders, for a page of several. Nothing of theirs is imported or run."""

from collections.abc import Sequence
from pathlib import Path

from limpq_deploy.calibration.errors import RecordError, SettingError
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.records.placement import Placement
from limpq_deploy.pipeline.config import load_config
from limpq_deploy.policy.policy import Policy
from limpq_deploy.policy.what_if import WhatIf
from limpq_deploy.report.comparison import ComparedBuild
from limpq_deploy.verdict.record import Verdict
from limpq_deploy.workspace.file_names import CONFIG, PLACEMENT, POLICY, REPORT, VERDICT, WHAT_IF
from limpq_deploy.workspace.finished import BuildFiles


def report_of(folder: Path) -> str:
    """The page of one finished build, as its last stage drew it. Raises RecordError for another folder, FileChanged
    where the page is not what the build wrote."""
    _require_finished(folder)
    return BuildFiles(folder).path(REPORT).read_text(encoding="utf-8")


def compared_builds(folders: Sequence[Path]) -> tuple[ComparedBuild, ...]:
    """Builds with names that tell them apart: those of their folders, or as many folders above as that takes.

    Raises RecordError for a folder that is no finished build, FileChanged for a file that is not what its stage wrote,
    SettingError where one folder is named twice.
    """
    places = [folder.resolve() for folder in folders]
    if len(set(places)) < len(places):
        twice = next(folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1)
        raise SettingError(f"{twice} is named twice; name different builds, or one alone for its own page")
    names = _names(places)
    return tuple(_read(folder, name) for folder, name in zip(folders, names, strict=True))


def _read(folder: Path, name: str) -> ComparedBuild:
    _require_finished(folder)
    files = BuildFiles(folder)
    has_front = (folder / WHAT_IF).is_file()
    return ComparedBuild(
        name=name,
        command=load_config(files.path(CONFIG)).command_line(),
        verdict=load_record(Verdict, files.path(VERDICT)),
        policy=load_record(Policy, files.path(POLICY)),
        placement=load_record(Placement, files.path(PLACEMENT)),
        what_if=load_record(WhatIf, files.path(WHAT_IF)) if has_front else None,
    )


def _require_finished(folder: Path) -> None:
    for name in (CONFIG, VERDICT, REPORT):
        if not (folder / name).is_file():
            raise RecordError(
                f"{folder} has no {name}; expected the --out of a finished build, run limpq-deploy build first"
            )


def _names(places: Sequence[Path]) -> list[str]:
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]
