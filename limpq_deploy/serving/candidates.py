"""Which of a build's files is shipped: the policy's own, or another candidate."""

from pathlib import Path
from typing import Any

from limpq_deploy.calibration.errors import OutputError, SettingError
from limpq_deploy.export.ship.manifest import MANIFEST, Manifest
from limpq_deploy.export.ship.verify import load_manifest
from limpq_deploy.workspace.file_names import BUNDLE, CANDIDATE_BUNDLES, MODEL


def bundle_of(build: Path, candidate: str | None = None) -> Path:
    """The bundle of a build's folder, or the folder itself where it is one; ``candidate``: that of another file.

    Raises OutputError where there is no bundle, SettingError where there is none of this candidate.
    """
    own = next((folder for folder in (build / BUNDLE, build) if (folder / MANIFEST).is_file()), None)
    if own is None:
        raise OutputError(f"{build} holds no bundle; run limpq-deploy build, or give the folder of a finished build")
    if candidate is None:
        return own
    verdict = load_manifest(own).verdict
    listed = verdict.get("candidates", []) if isinstance(verdict, dict) else []
    files = {str(one.get("name")): one.get("file") for one in listed if isinstance(one, dict)}
    if files.get(candidate) == MODEL:
        return own
    folder = build / CANDIDATE_BUNDLES / candidate
    if candidate in files and (folder / MANIFEST).is_file():
        return folder
    there = [name for name, file in files.items() if file == MODEL or (build / CANDIDATE_BUNDLES / name).is_dir()]
    raise SettingError(
        f"--candidate {candidate} is not in {build} (there are: {', '.join(there) or 'none but the bundle'}); name one "
        "of these, and give the folder of a finished build: a bundle alone holds the policy's own file only"
    )


def recommendation_of(manifest: Manifest) -> dict[str, Any]:
    """What the build recommends; empty where it says nothing, as those of older versions."""
    verdict = manifest.verdict if isinstance(manifest.verdict, dict) else {}
    found = verdict.get("recommendation")
    return found if isinstance(found, dict) else {}


def recommended_notes(manifest: Manifest, candidate: str | None) -> tuple[str, ...]:
    """That the build recommends another file than what was shipped."""
    found = recommendation_of(manifest)
    name, own = found.get("candidate"), found.get("own")
    if name is None or name == (candidate or own):
        return ()
    return (f"the build recommends {name}, {found.get('why')}; --candidate {name} ships that",)
