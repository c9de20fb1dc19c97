"""What `--version` says: version, commit, and the libraries whose arithmetic counts. Imports none of them."""

import importlib.metadata
import json
import subprocess
from pathlib import Path

from limpq_deploy.calibration.version import __version__

PACKAGE = "limpq-deploy"
LIBRARIES = ("torch", "torchvision", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "pulp")
BAKED = Path(__file__).parents[2] / "commit.txt"
"""Written into a wheel when it is built."""

ROOT = Path(__file__).resolve().parents[3]


def version_lines() -> str:
    """Two lines for people; a library that is not installed is left out."""
    found = commit()
    said = f" (commit {found})" if found is not None else ""
    libraries = [f"{name} {known}" for name in LIBRARIES if (known := _installed(name)) is not None]
    return f"{PACKAGE}, version {__version__}{said}\n{', '.join(libraries)}"


def commit() -> str | None:
    """The commit that this program was built or installed from, or is checked out at; None where nobody knows."""
    if BAKED.is_file():
        return BAKED.read_text(encoding="utf-8").strip()
    if (ROOT / ".git").exists():
        return _of_checkout()
    return _of_installation()


def _of_checkout() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _of_installation() -> str | None:
    """pip records where a package came from that it installed from a repository."""
    try:
        text = importlib.metadata.distribution(PACKAGE).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    found = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    return str(found)[:12] if found else None


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
