"""An installation holds what the checkout does."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_and_data_file_is_installed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    listed = set(setup["packages"])
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for top in ("limpq_deploy", "calibration", "export")
        for file in (ROOT / top).rglob("__init__.py")
    }
    linked = {name if name.startswith("limpq_deploy") else f"limpq_deploy.{name}" for name in found}
    assert linked == listed
    data = {path.suffix for path in (ROOT / "limpq_deploy").rglob("*") if path.is_file()} - {".py", ".pyc"}
    patterns = {Path(one).suffix or one for several in setup["package-data"].values() for one in several}
    assert {suffix for suffix in data if suffix} <= patterns
