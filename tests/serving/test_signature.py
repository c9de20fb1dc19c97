"""Signed repositories: whatever is changed is refused, by name."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limpq_deploy.calibration.errors import OutputError
from limpq_deploy.export.ship.repository import Keys
from limpq_deploy.export.ship.signature import (
    KeyRefused,
    is_signed_by,
    sign_bundle,
    sign_bytes,
    signed_at,
    write_key_pair,
)
from limpq_deploy.export.ship.triton.config import ServingOptions
from limpq_deploy.export.ship.verify import BundleRefused, verify_bundle
from limpq_deploy.serving.ship import ShipRefused, ship

Pair = tuple[Path, Path]


@pytest.fixture
def signed(tmp_path: Path, make_bundle: Callable[..., Path], keys: Pair) -> Path:
    """A signed model's folder."""
    options = ServingOptions(backend="python")
    ship(make_bundle(), tmp_path / "models", options, keys=Keys(private=keys[0], public=keys[1]))
    return tmp_path / "models/tiny"


def test_a_signature_holds_for_its_key_and_its_bytes_only(tmp_path: Path, keys: Pair) -> None:
    other = tmp_path / "other", tmp_path / "other.pub"
    write_key_pair(*other)
    signature = sign_bytes(b"manifest", keys[0], tmp_path)
    assert len(signature) == 8 + 64
    later = (signed_at(signature) + 1).to_bytes(8, "big") + signature[8:]
    assert not is_signed_by(b"manifest", later, keys[1])
    assert is_signed_by(b"manifest", signature, keys[1])
    assert not is_signed_by(b"manifesT", signature, keys[1])
    assert not is_signed_by(b"manifest", signature, other[1])


def test_a_key_that_others_can_read_does_not_sign_and_no_key_is_replaced(keys: Pair) -> None:
    assert keys[0].stat().st_mode & 0o777 == 0o600
    with pytest.raises(OutputError, match="a key is never replaced"):
        write_key_pair(*keys)
    keys[0].chmod(0o644)
    with pytest.raises(KeyRefused, match="can be read by others"):
        sign_bytes(b"", keys[0], Path())
    with pytest.raises(KeyRefused, match="no PEM public key"):
        is_signed_by(b"", b"", keys[0])


def test_a_signed_repository_is_taken_with_its_key_and_refused_with_another(
    signed: Path, keys: Pair, tmp_path: Path
) -> None:
    report = verify_bundle(signed, keys[1])
    assert (report.signed, report.signature_checked) == (True, True)
    write_key_pair(tmp_path / "other", tmp_path / "other.pub")
    with pytest.raises(BundleRefused, match="another key"):
        verify_bundle(signed, tmp_path / "other.pub")


def test_an_older_bundle_in_the_place_of_a_newer_one_is_refused(
    keys: Pair, tmp_path: Path, make_bundle: Callable[..., Path], write_tiny: Callable[..., Path]
) -> None:
    place = make_bundle("place", 0)
    sign_bundle(place, keys[0])
    shutil.copytree(place, tmp_path / "older")
    write_tiny(place, 1)
    sign_bundle(place, keys[0])
    assert verify_bundle(place, keys[1]).signed_at
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "older", place)
    with pytest.raises(BundleRefused, match="an older bundle was put back"):
        verify_bundle(place, keys[1])
    assert verify_bundle(
        tmp_path / "older", keys[1]
    ).signature_checked  # as a copy that nothing newer took the place of
    sign_bundle(place, keys[0])  # where it was meant
    assert verify_bundle(place, keys[1]).signature_checked


def test_a_clock_that_jumped_back_signs_as_the_newest(
    keys: Pair, make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_bundle("place", 0)
    sign_bundle(place, keys[0])
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)  # 2001
    sign_bundle(place, keys[0])
    assert verify_bundle(place, keys[1]).signature_checked


def test_a_signature_that_was_taken_away_is_missed(
    keys: Pair, tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    options, both = ServingOptions(backend="python"), Keys(private=keys[0], public=keys[1])
    bundle = make_bundle("bundle")
    with pytest.raises(ShipRefused, match="is not signed"):
        ship(bundle, tmp_path / "models", options, keys=Keys(public=keys[1]))
    sign_bundle(bundle, keys[0])
    ship(bundle, tmp_path / "models", options, keys=both)
    (bundle / "manifest.sig").unlink()
    with pytest.raises(ShipRefused, match="is not signed"):
        ship(bundle, tmp_path / "models", options, keys=both)


def test_a_key_in_the_bundle_itself_proves_nothing(signed: Path, keys: Pair) -> None:
    shutil.copy(keys[1], signed / "release.key.pub")
    with pytest.raises(BundleRefused, match="lies in the bundle itself"):
        verify_bundle(signed, signed / "release.key.pub")


def swap(folder: Path) -> None:
    one, other = folder / "1/canary_inputs.npy", folder / "1/canary_outputs.npy"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def link(folder: Path) -> None:
    (folder / "1/model.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "1/model.onnx").symlink_to("../../elsewhere.onnx")


def compile_code(folder: Path) -> None:
    (folder / "1/__pycache__").unlink()
    (folder / "1/__pycache__").mkdir()
    (folder / "1/__pycache__/model.cpython-311.pyc").write_bytes(b"code")


TAMPERING: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: os.truncate(folder / "1/model.onnx", 50), "'1/model.onnx' has 50 bytes"),
    (lambda folder: (folder / "config.pbtxt").write_bytes(b""), "'config.pbtxt' has 0 bytes"),
    (swap, "'1/canary_inputs.npy' has"),
    (lambda folder: (folder / "1/libplugin.so").write_bytes(b"x"), "'1/libplugin.so' is not listed"),
    (lambda folder: shutil.copytree(folder / "1", folder / "2"), "'2/model.py' is not listed"),
    (compile_code, "'1/__pycache__/model.cpython-311.pyc' is not listed in manifest.json (compiled Python"),
    (link, "'1/model.onnx' is a symbolic link"),
    (lambda folder: (folder / "manifest.sig").unlink(), "manifest.sig is missing"),
    (lambda folder: os.truncate(folder / "manifest.sig", 64), "manifest.sig has 64 bytes"),
    (lambda folder: os.truncate(folder / "manifest.sig", 73), "manifest.sig cannot be read"),
    (lambda folder: (folder / "1/model.py").unlink(), "'1/model.py' is listed in manifest.json but missing"),
]


@pytest.mark.parametrize(("tamper", "finding"), TAMPERING)
def test_a_tampered_repository_is_refused_by_name(
    signed: Path, keys: Pair, tamper: Callable[[Path], object], finding: str
) -> None:
    tamper(signed)
    with pytest.raises(BundleRefused) as refused:
        verify_bundle(signed, keys[1])
    assert any(finding in problem for problem in refused.value.problems), refused.value.problems


def test_a_forged_manifest_with_right_hashes_is_refused(
    signed: Path, keys: Pair, make_bundle: Callable[..., Path]
) -> None:
    ship(make_bundle("other", 1), signed.parent.parent / "forged", ServingOptions(backend="python"))
    forged = signed.parent.parent / "forged/tiny"
    shutil.copy(signed / "manifest.sig", forged)
    verify_bundle(forged)
    with pytest.raises(BundleRefused, match=r"manifest.json or manifest.sig was altered"):
        verify_bundle(forged, keys[1])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_of_every_file_is_refused_by_name(signed: Path, keys: Pair, place: float, bit: int) -> None:
    files = sorted(path for path in signed.rglob("*") if path.is_file())
    number, inside = divmod(place * len(files), 1)  # every file is as likely, large or small
    file = files[int(number)]
    good = file.read_bytes()
    bad = bytearray(good)
    bad[int(inside * len(good))] ^= 1 << bit
    file.write_bytes(bad)
    try:
        with pytest.raises(BundleRefused, match=file.name):
            verify_bundle(signed, keys[1])
    finally:
        file.write_bytes(good)
