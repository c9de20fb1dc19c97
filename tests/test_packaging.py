"""An installation holds what the checkout does."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePath

import pytest

import limpq_deploy

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


def test_one_version_is_said_everywhere() -> None:
    assert f"version: {limpq_deploy.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_pins_admit_the_releases_that_are_out() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    specifiers = pytest.importorskip("packaging.specifiers")
    train = dict(one.split(">=", 1) for one in setup["optional-dependencies"]["train"])
    for name, version in (("torch", "2.14.0"), ("torchvision", "0.29.0")):
        assert version in specifiers.SpecifierSet(f">={train[name]}")


@pytest.mark.slow
def test_a_wheel_runs_without_the_checkout(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="needs the extra limpq-deploy[package]")
    pytest.importorskip("pip")
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(".git", "build", "*.egg-info", "__pycache__", ".*_cache", "tests", "limpq-build*")
    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build: list[str | Path] = [
        *pip,
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        tmp_path / "dist",
        source,
    ]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = (tmp_path / "dist").glob("limpq_deploy-*.whl")
    place = tmp_path / "installed"
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", place, wheel], check=True, capture_output=True)
    shutil.rmtree(source)
    golden = ROOT / "tests/golden/resnet50_official_macs.indicators.json"
    environment = {**os.environ, "PYTHONPATH": str(place)}
    for words in (["--version"], ["search", golden, "--like", "w4a4", "-o", tmp_path / "policy.json"], ["doctor"]):
        command = [sys.executable, "-P", "-m", "limpq_deploy", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    where = "import limpq_deploy; print(limpq_deploy.__file__, limpq_deploy.build.__module__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert str(place) in done.stdout


def test_the_image_is_built_from_the_wheel_that_is_built_here() -> None:
    """No Docker here: its file is read as Docker reads it, and what it copies and installs is looked up."""
    text = (ROOT / "docs/kubernetes/Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line and not line.startswith("#")]
    assert [line.split(" ", 1)[0] for line in lines] == ["FROM", "COPY", "RUN", "USER"]
    _, source, place = lines[1].split()
    assert PurePath(f"dist/limpq_deploy-{limpq_deploy.__version__}-py3-none-any.whl").match(source)
    assert place.endswith("/")  # as several files may match
    [(installed, extras)] = re.findall(r'pip install \S+ "\$\(ls (\S+)\)\[([\w,]+)\]"', lines[2])
    assert installed == place + PurePath(source).name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    [build] = re.findall(r"docker build -f (\S+)", text)
    assert (ROOT / build).is_file()
    assert lines[3] != "USER root"
