import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from limpq_deploy.export.records.environment import Environment, read_environment
from limpq_deploy.export.ship.bundle import write_bundle
from limpq_deploy.export.ship.verify import BundleRefused, replay_canaries, verify_bundle

INPUTS = np.random.default_rng(0).normal(size=(8, 3, 4, 4)).astype(np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(48, 5)).astype(np.float32)


class MatrixSession:
    """A model file that is one float32 matrix: logits = flattened images @ matrix."""

    def __init__(self, path: Path) -> None:
        self.matrix = np.frombuffer(path.read_bytes(), np.float32).reshape(48, 5)

    def run(self, images: NDArray[np.float32], /) -> NDArray[np.float32]:
        return images.reshape(len(images), -1) @ self.matrix


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write(tmp_path / "bundle", read_environment(("numpy",)))
    return tmp_path / "bundle"


def write(folder: Path, environment: Environment, **changes: Any) -> None:
    (folder.parent / "model").write_bytes(WEIGHT.tobytes())
    facts: dict[str, Any] = {
        "model": "matrix",
        "target": "numpy",
        "model_file": "model.bin",
        "canary_inputs_NCHW": INPUTS,
        "canary_outputs": MatrixSession(folder.parent / "model").run(INPUTS),
        "environment": environment,
        "versions": {},
        "policy": {},
    }
    write_bundle(folder, {"model.bin": WEIGHT.tobytes(), "labels.txt": b"a\nb\n"}, **(facts | changes))


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def truncate(bundle: Path) -> None:
    os.truncate(bundle / "model.bin", 100)


def flip_a_bit(bundle: Path) -> None:
    data = bytearray((bundle / "model.bin").read_bytes())
    data[500] ^= 1
    (bundle / "model.bin").write_bytes(data)


def link(bundle: Path) -> None:
    (bundle.parent / "elsewhere").write_bytes((bundle / "model.bin").read_bytes())
    (bundle / "model.bin").unlink()
    (bundle / "model.bin").symlink_to(bundle.parent / "elsewhere")


def link_folder(bundle: Path) -> None:
    (bundle / "extra").symlink_to(bundle.parent, target_is_directory=True)


def pipe(bundle: Path) -> None:
    (bundle / "labels.txt").unlink()
    os.mkfifo(bundle / "labels.txt")


TAMPERING: list[tuple[Callable[[Path], object], str]] = [
    (truncate, "'model.bin' has 100 bytes"),
    (flip_a_bit, "'model.bin' was altered"),
    (link, "'model.bin' is a symbolic link"),
    (link_folder, "'extra' is a symbolic link"),
    (pipe, "'labels.txt' is no plain file"),
    (lambda bundle: (bundle / "extra.txt").write_text("x"), "'extra.txt' is not listed"),
    (lambda bundle: (bundle / "labels.txt").unlink(), "'labels.txt' is listed in manifest.json but missing"),
    (lambda bundle: (bundle / "model.bin").rename(bundle / "Model.bin"), "'Model.bin' is not listed"),
    (lambda bundle: (bundle / "manifest.json").unlink(), "manifest.json cannot be read"),
    (lambda bundle: (bundle / "manifest.json").write_text("{"), "manifest.json is not valid JSON"),
    (
        lambda bundle: edit_manifest(bundle, lambda manifest: manifest.update(format="limpq.manifest/9")),
        "manifest.json has format 'limpq.manifest/9'",
    ),
    (
        lambda bundle: edit_manifest(bundle, lambda manifest: manifest["files"][0].update(name="../model")),
        "file name '../model' is not allowed",
    ),
    (
        lambda bundle: edit_manifest(bundle, lambda manifest: manifest["files"][0].update(name="/etc/passwd")),
        "file name '/etc/passwd' is not allowed",
    ),
    (
        lambda bundle: edit_manifest(bundle, lambda manifest: manifest["files"].append(manifest["files"][0])),
        "is listed twice",
    ),
    (
        lambda bundle: edit_manifest(bundle, lambda manifest: manifest.update(model_file="other.bin")),
        "file 'other.bin' is used but not listed",
    ),
]


@pytest.mark.parametrize(("tamper", "finding"), TAMPERING)
def test_a_tampered_bundle_is_refused_by_name_before_its_model_is_opened(
    bundle: Path, tamper: Callable[[Path], object], finding: str
) -> None:
    def never(path: Path) -> MatrixSession:
        raise AssertionError(f"{path} was opened")

    tamper(bundle)
    with pytest.raises(BundleRefused) as refused:
        verify_bundle(bundle)
    assert any(finding in problem for problem in refused.value.problems)
    with pytest.raises(BundleRefused):
        replay_canaries(bundle, never)


def test_every_single_flipped_bit_is_found(bundle: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("model.bin", "labels.txt", "canary_inputs.npy", "canary_outputs.npy"):
        good = (bundle / name).read_bytes()
        for bit in generator.integers(0, 8 * len(good), size=25):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << (bit % 8)
            (bundle / name).write_bytes(bad)
            with pytest.raises(BundleRefused, match=f"'{name}' was altered"):
                verify_bundle(bundle)
        (bundle / name).write_bytes(good)
    verify_bundle(bundle)


def test_all_findings_are_counted_in_one_sentence(bundle: Path) -> None:
    (bundle / "labels.txt").unlink()
    (bundle / "extra.txt").write_text("x")
    with pytest.raises(BundleRefused, match=r"'extra.txt' is not listed.*\(and 1 more findings\)"):
        verify_bundle(bundle)


def test_canaries_of_a_sound_bundle_are_bit_equal(bundle: Path) -> None:
    report = replay_canaries(bundle, MatrixSession)
    assert report.bit_equal
    assert (report.images, report.logits, report.max_abs_difference) == (8, 40, 0)


def test_a_runtime_that_answers_otherwise_is_told_from_damage(bundle: Path) -> None:
    class Off(MatrixSession):
        def run(self, images: NDArray[np.float32], /) -> NDArray[np.float32]:
            answers = super().run(images)
            answers[2, 1] += np.float32(0.5)
            return answers

    report = replay_canaries(bundle, Off)
    assert not report.bit_equal
    assert report.differing == 1
    assert report.max_abs_difference == pytest.approx(0.5, abs=1e-6)
    assert "do not serve this bundle" in report.note


def test_a_difference_on_another_cpu_or_version_says_so(tmp_path: Path) -> None:
    class Off(MatrixSession):
        def run(self, images: NDArray[np.float32], /) -> NDArray[np.float32]:
            return super().run(images) * np.float32(2)

    there = read_environment(("numpy",))
    other = Environment(
        cpu="VIA C3",
        architecture="i686",
        logical_cpus=1,
        usable_cpus=1,
        instruction_sets=(),
        os="Linux",
        python="3.11",
        libraries=there.libraries,
    )
    write(tmp_path / "bundle", other)
    report = replay_canaries(tmp_path / "bundle", Off)
    assert not report.same_cpu_kind
    assert "made on VIA C3" in report.note
    here = Environment(**{name: getattr(other, name) for name in other.__slots__} | {"libraries": {"numpy": "0.9"}})
    assert "numpy" in replay_canaries(tmp_path / "bundle", Off, environment=here).note


def test_answers_that_are_not_finite_are_refused(bundle: Path) -> None:
    class Broken(MatrixSession):
        def run(self, images: NDArray[np.float32], /) -> NDArray[np.float32]:
            return np.full((len(images), 5), np.nan, np.float32)

    with pytest.raises(BundleRefused, match="not finite"):
        replay_canaries(bundle, Broken)


def test_an_array_that_needs_pickle_is_never_loaded(bundle: Path) -> None:
    import hashlib
    import io

    stream = io.BytesIO()
    np.save(stream, np.array([print, None], dtype=object), allow_pickle=True)
    data = stream.getvalue()
    (bundle / "canary_inputs.npy").write_bytes(data)

    def forge(manifest: dict[str, Any]) -> None:
        entry = next(file for file in manifest["files"] if file["name"] == "canary_inputs.npy")
        entry.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())

    edit_manifest(bundle, forge)
    verify_bundle(bundle)
    with pytest.raises(BundleRefused, match=r"'canary_inputs.npy' is no plain array"):
        replay_canaries(bundle, MatrixSession)
