"""Writes the commit into wheels and sdists; all else stands in pyproject.toml."""

import subprocess
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

FILE = Path("limpq_deploy") / "commit.txt"


def write_commit(folder: Path) -> None:
    """That of the sdist which is built from, or of the checkout; nothing where nobody knows."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    known = FILE.read_text(encoding="utf-8") if FILE.is_file() else ""
    if not known and Path(".git").exists():
        known = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if known:
        (folder / FILE).write_text(known, encoding="utf-8")


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            write_commit(Path(self.build_lib))


class Sdist(sdist):
    def make_release_tree(self, base_dir: Any, files: Any) -> None:
        super().make_release_tree(base_dir, files)
        write_commit(Path(base_dir))


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
