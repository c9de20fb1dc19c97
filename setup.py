"""Writes the commit into a wheel; all else stands in pyproject.toml."""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithCommit(build_py):
    """`build_py`, and ``commit.txt`` where this is a checkout."""

    def run(self) -> None:
        super().run()
        command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and not self.editable_mode:
            (Path(self.build_lib) / "limpq_deploy" / "commit.txt").write_text(done.stdout, encoding="utf-8")


setup(cmdclass={"build_py": WithCommit})
