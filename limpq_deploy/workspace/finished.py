"""Files of a finished build, each held against the hash that its stage recorded before anything of it is loaded."""

from pathlib import Path

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.calibration.json_text import MAX_BYTES
from limpq_deploy.calibration.records import load_record
from limpq_deploy.workspace.file_names import CONFIG
from limpq_deploy.workspace.step import digest_of
from limpq_deploy.workspace.workspace import STATE, BuildState

DEPTH = 2
"""How deep below a build's folder its files lie, at most: ``baselines/float.onnx``."""


class FileChanged(LimpqError):
    """A file of a build is not the one that its stage wrote."""


class BuildFiles:
    """The files of a build's folder by name; each is checked when it is asked for.

    A folder without ``stages.json`` and ``config.json`` is nobody's build, such as a few files copied to another
    machine: nothing is known of those, and they are taken as they are. Raises FileChanged for a build's folder that has
    lost its ``stages.json``, RecordError where that is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state: BuildState | None = None
        if (folder / STATE).is_file():
            self._state = load_record(BuildState, folder / STATE)
        elif (folder / CONFIG).is_file():
            raise FileChanged(
                f"{folder} has no {STATE}, by which the files of a build are checked; copy it along with them, or run "
                "the build again"
            )

    def path(self, name: str) -> Path:
        """The file (or folder) of this name; raises FileChanged where it is missing, of no finished stage, or not what
        its stage wrote."""
        path = self.folder / name
        if self._state is None:
            return path
        owner = self.owner(name)
        if owner is None:
            raise FileChanged(
                f"{path} is of no finished stage of this build ({STATE} does not name it); run the build again, which "
                "makes it"
            )
        stage, recorded = owner
        if not path.exists():
            raise FileChanged(f"{path}, which the stage {stage!r} wrote, is missing; run the build again to make it")
        if path.suffix == ".json" and path.is_file() and path.stat().st_size > MAX_BYTES:
            raise FileChanged(
                f"{path} has {path.stat().st_size:,} bytes, more than a record has, so it is not what the stage "
                f"{stage!r} wrote; run the build again, which makes it anew"
            )
        if digest_of(path) != recorded:
            raise FileChanged(
                f"{path} is not what the stage {stage!r} wrote (its SHA-256 is another): damaged, or changed since; "
                "run the build again, which makes it anew, or copy it to another folder to use it as it is"
            )
        return path

    def has(self, name: str) -> bool:
        """Whether the file is here, and not left by an earlier build in this folder."""
        return (self.folder / name).is_file() and (self._state is None or self.owner(name) is not None)

    def owner(self, name: str) -> tuple[str, str] | None:
        """The stage that wrote a file, and the file's digest; None where no finished one did."""
        assert self._state is not None
        if name in self._state.written:
            return "settings", self._state.written[name]
        for stage, done in self._state.stages.items():
            if name in done.outputs:
                return stage, done.outputs[name]
        return None


def checked(path: Path) -> Path:
    """A file (or a folder, such as a bundle) that was named by itself: checked where it lies in a build that names it,
    taken as it is elsewhere. Raises what `BuildFiles` raises."""
    for folder in list(path.absolute().parents)[:DEPTH]:
        if (folder / STATE).is_file():
            files, name = BuildFiles(folder), str(path.absolute().relative_to(folder))
            if files.owner(name) is not None:
                files.path(name)
            break
    return path
