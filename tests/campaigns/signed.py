"""Signed bundles that were tampered with: flips, files of another bundle, an older bundle put back, a verdict made
better, a signature taken away or made by another key. None is accepted by `verify` or `ship` with the right key."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limpq_deploy.calibration.errors import LimpqError
from limpq_deploy.export.ship.manifest import MANIFEST, SIGNATURE
from limpq_deploy.export.ship.repository import Keys
from limpq_deploy.export.ship.signature import sign_bundle, write_key_pair
from limpq_deploy.export.ship.triton.config import ServingOptions
from limpq_deploy.export.ship.verify import verify_bundle
from limpq_deploy.serving.ship import ship

from .tally import Tally, unclean


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """``place``: where the bundle under attack lies, whole again before each case; ``older``: one that was signed
    earlier with the same key and lay there; ``other``: a newer one of another build; ``key``: the public key."""

    place: Path
    older: Path
    other: Path
    private: Path
    stranger: Path
    rng: random.Random

    @property
    def key(self) -> Path:
        return self.private.with_name(f"{self.private.name}.pub")


def campaign(build: Path, scratch: Path, *, cases: int, seed: int) -> Tally:
    """``cases`` attacks, of every kind in turn; each is given to `verify`, and every fourth to `ship` too, in each turn
    another fourth of the kinds."""
    tally, rng = Tally("signed"), random.Random(seed)
    scene = _scene(build, scratch, rng)
    whole = Path(shutil.copytree(scene.place, scratch / "whole"))
    for case in range(cases):
        turn, kind = divmod(case, len(ATTACKS))
        name, attack = list(ATTACKS.items())[kind]
        shutil.rmtree(scene.place)
        shutil.copytree(whole, scene.place)
        verify_bundle(scene.place, scene.key)
        attack(scene)
        failure = _refused(lambda: verify_bundle(scene.place, scene.key))
        if failure is None and (turn + kind) % 4 == 0:
            failure = _refused(lambda: _ship(scene, Keys(public=scene.key), scratch))
            failure = failure or _refused(lambda: _ship(scene, Keys(private=scene.private, public=scene.key), scratch))
        tally.count(name, failure and f"{name}, case {case} of seed {seed}: {failure}")
    return tally


def _ship(scene: Scene, keys: Keys, scratch: Path) -> None:
    ship(scene.place, scratch / "models", ServingOptions(backend="python"), name="net", keys=keys)


def _refused(what: Callable[[], object]) -> str | None:
    try:
        what()
    except LimpqError as error:
        return unclean(str(error))
    except Exception as error:
        return f"a traceback: {error!r}"
    return "accepted"


def _scene(build: Path, scratch: Path, rng: random.Random) -> Scene:
    private, stranger = scratch / "release.key", scratch / "stranger.key"
    for key in (private, stranger):
        write_key_pair(key, key.with_name(f"{key.name}.pub"))
    place, older, other = scratch / "place", scratch / "older", scratch / "other"
    shutil.copytree(build / "bundle", place)
    _verdict(place, "failed")
    sign_bundle(place, private)
    shutil.copytree(place, older)
    _verdict(place, "passed")
    sign_bundle(place, private)
    shutil.copytree(build / "candidates" / "float", other)
    sign_bundle(other, private)
    return Scene(place=place, older=older, other=other, private=private, stranger=stranger, rng=rng)


def _edit(folder: Path, change: Callable[[Any], None]) -> None:
    """Change a manifest, and give every file in it the size and hash that it has now."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    for file in manifest["files"]:
        data = (folder / file["name"]).read_bytes()
        file |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _verdict(folder: Path, outcome: str) -> None:
    _edit(folder, lambda manifest: manifest["verdict"].update(outcome=outcome))


def _flip(scene: Scene) -> None:
    path = scene.rng.choice([one for one in sorted(scene.place.rglob("*")) if one.is_file()])
    data = bytearray(path.read_bytes())
    data[scene.rng.randrange(len(data))] ^= 1 << scene.rng.randrange(8)
    path.write_bytes(data)


def _swap_file(scene: Scene) -> None:
    own = {one.name: one.read_bytes() for one in scene.place.iterdir()}
    others = [one for one in sorted(scene.other.iterdir()) if own.get(one.name) not in (None, one.read_bytes())]
    chosen = scene.rng.choice(others)
    shutil.copy(chosen, scene.place / chosen.name)


def _swap_with_its_hash(scene: Scene) -> None:
    shutil.copy(scene.other / "model.onnx", scene.place)
    _edit(scene.place, lambda manifest: None)


def _take(scene: Scene, folder: Path, *names: str) -> None:
    for name in names:
        shutil.copy(folder / name, scene.place)


def _older(scene: Scene) -> None:
    shutil.rmtree(scene.place)
    shutil.copytree(scene.older, scene.place)


def _older_with_new_time(scene: Scene) -> None:
    newest = (scene.place / SIGNATURE).read_bytes()
    _older(scene)
    signature = scene.place / SIGNATURE
    signature.write_bytes(newest[:8] + signature.read_bytes()[8:])


def _unsign(scene: Scene) -> None:
    (scene.place / SIGNATURE).unlink()


def _unsign_and_edit(scene: Scene) -> None:
    _unsign(scene)
    _verdict(scene.place, scene.rng.choice(("passed", "undecided", "failed")))


def _sign_as_stranger(scene: Scene) -> None:
    _edit(scene.place, lambda manifest: None)
    sign_bundle(scene.place, scene.stranger)


def _more(scene: Scene) -> None:
    (scene.place / scene.rng.choice(("extra.txt", "model.py", "labels.txt.bak"))).write_text("x")


def _less(scene: Scene) -> None:
    scene.rng.choice([one for one in sorted(scene.place.iterdir()) if one.name != MANIFEST]).unlink()


ATTACKS: dict[str, Callable[[Scene], None]] = {
    "a flipped bit": _flip,
    "a file of another signed bundle": _swap_file,
    "a file of another bundle, and its hash": _swap_with_its_hash,
    "an older bundle put back": _older,
    "an older bundle with the time of the newer": _older_with_new_time,
    "another bundle's manifest and signature": lambda scene: _take(scene, scene.other, MANIFEST, SIGNATURE),
    "another bundle's signature": lambda scene: _take(scene, scene.other, SIGNATURE),
    "the verdict changed": lambda scene: _verdict(scene.place, "undecided"),
    "the manifest of an older bundle": lambda scene: _take(scene, scene.older, MANIFEST),
    "no signature": _unsign,
    "no signature, another verdict": _unsign_and_edit,
    "signed by a stranger": _sign_as_stranger,
    "a file more": _more,
    "a file less": _less,
}
