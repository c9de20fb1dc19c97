"""From a bundle that a machine without a GPU handed over to a measured, shippable build, on the machine with the GPU.

The stages are those of a build behind its export; only their `subject` differs. No torch here.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from limpq_deploy.calibration.errors import LimpqError, OutputError, RuntimeUnavailable
from limpq_deploy.calibration.files import write_bytes
from limpq_deploy.calibration.records import load_record
from limpq_deploy.export.runtimes.onnxruntime.as_written import AsWritten
from limpq_deploy.export.ship.manifest import MANIFEST, Manifest
from limpq_deploy.export.ship.signature import sign_bundle
from limpq_deploy.export.ship.triton.config import PLANS
from limpq_deploy.export.ship.verify import load_manifest, read_listed, verify_bundle
from limpq_deploy.pipeline.handed_over import HandedOver
from limpq_deploy.pipeline.outcome import Outcome
from limpq_deploy.pipeline.stages.audit import AUDIT_OF_ENGINE
from limpq_deploy.pipeline.stages.bundle import SHIPPED
from limpq_deploy.pipeline.stages.candidates import CANDIDATES_OF_BUILD
from limpq_deploy.pipeline.stages.declaration import Stage
from limpq_deploy.pipeline.stages.engine import ENGINE_RECORD
from limpq_deploy.pipeline.stages.handover import FOLDER
from limpq_deploy.pipeline.stages.measure import LATENCY_OF_FILES, PARITY_OF_CODES
from limpq_deploy.pipeline.stages.page import REPORT_PAGE
from limpq_deploy.pipeline.stages.verdict import VERDICT_OF_BUILD
from limpq_deploy.policy.policy import Policy
from limpq_deploy.progress import Report
from limpq_deploy.verdict.record import Verdict
from limpq_deploy.workspace.file_names import BUNDLE, HANDOVER, MODEL, PIXELS, POLICY, VERDICT
from limpq_deploy.workspace.step import Step
from limpq_deploy.workspace.workspace import Passed, Workspace, read_state

STAGES: tuple[Stage, ...] = (
    *(ENGINE_RECORD, PARITY_OF_CODES, LATENCY_OF_FILES, CANDIDATES_OF_BUILD, AUDIT_OF_ENGINE),
    *(VERDICT_OF_BUILD, REPORT_PAGE, SHIPPED),
)

RECEIVED = "received"


class NothingToFinish(LimpqError):
    """A bundle of which nothing is left to do on another machine."""


def finish(
    bundle: Path,
    out: Path,
    *,
    public_key: Path | None = None,
    private_key: Path | None = None,
    fresh: bool = False,
    say: Callable[[Passed], None],
    note: Callable[[str], None] = lambda sentence: None,
) -> Outcome:
    """Build, compare, time, audit, judge and bundle the engine of a bundle that was handed over; finished stages whose
    inputs are unchanged are not run again. ``private_key`` signs what comes out.

    Every hash (and with ``public_key`` the signature) is right before anything of the bundle is read. Raises
    BundleRefused where one is not, NothingToFinish for other bundles, RuntimeUnavailable or MissingExtra where this
    machine cannot build or run engines, OutputError for a folder of something else; then nothing was written.
    """
    start = time.perf_counter()
    if not (bundle / MANIFEST).exists() and (bundle / BUNDLE / MANIFEST).exists():
        bundle = bundle / BUNDLE  # of a build's folder
    checked = verify_bundle(bundle, public_key)
    manifest = load_manifest(bundle, public_key)
    files = dict(_handed(bundle, manifest))
    if checked.signed and not checked.signature_checked:
        note(f"{bundle} is signed, and no --key was given, so that its signature was not checked; its hashes are right")
    _require_own(bundle, out)
    subject = HandedOver(bundle / FOLDER)
    subject.dataset  # noqa: B018 - read now, and not behind an hour of building
    if (why := AsWritten().unavailable()) is not None:
        raise RuntimeUnavailable(f"{why}; parity is shown against the file as ONNX Runtime executes it")
    subject.runtime()
    workspace = Workspace(out, say=say, note=note)
    with workspace.held(fresh=fresh):
        workspace.run(_receive(bundle, manifest, files, out))
        subject = HandedOver(out)
        for stage in STAGES:
            if stage.needed(subject, out):
                workspace.run(stage.step(subject, out))
        if private_key is not None:
            verify_bundle(out / BUNDLE)
            sign_bundle(out / BUNDLE, private_key)
        return Outcome(
            folder=out,
            seconds=time.perf_counter() - start,
            stages=tuple(workspace.passed),
            why=None,
            outdated=workspace.outdated(),
            placement=subject.placement,
            policy=load_record(Policy, out / POLICY),
            verdict=load_record(Verdict, out / VERDICT),
            left=_left(subject, out),
        )


def _left(subject: HandedOver, out: Path) -> str | None:
    """What is to do with a finished build, where a server takes its plans."""
    runtime = subject.target.runtime
    return f"limpq-deploy ship {out} REPOSITORY --backend {runtime}" if runtime in PLANS else None


def _handed(bundle: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(name in the build's folder, name in the bundle) of every file that was handed over."""
    listed = [file.name for file in manifest.files]
    if f"{FOLDER}/{HANDOVER}" not in listed:
        done = "is a model of a repository" if manifest.serving is not None else f"was made for {manifest.target}"
        raise NothingToFinish(
            f"{bundle} {done} and is finished: it has no {FOLDER}/{HANDOVER}; expected the bundle of a build for a GPU "
            "that was made without one (build --target tensorrt --no-engine)"
        )
    own = f"{FOLDER}/{MODEL}" in listed  # then the bundle's own model takes pixels
    yield PIXELS if own else MODEL, manifest.model_file
    for name in listed:
        if name.startswith(f"{FOLDER}/"):
            yield name.removeprefix(f"{FOLDER}/"), name


def _receive(bundle: Path, manifest: Manifest, files: dict[str, str], out: Path) -> Step:
    """Copy the files to where a build has them; each one's hash is checked on the bytes that are written."""
    listed = {file.name: file for file in manifest.files}

    def run(report: Report) -> str:
        for number, (name, origin) in enumerate(files.items()):
            report(number, len(files), name)
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(out / name, read_listed(bundle, listed[origin]))
        size = sum(listed[origin].size for origin in files.values())
        return f"{manifest.model} for {manifest.target}, {len(files)} files, {size / 2**20:.2f} MiB, every hash right"

    return Step(
        name=RECEIVED,
        title=RECEIVED,
        inputs={"files": {name: listed[origin].sha256 for name, origin in files.items()}},
        reads=(),
        outputs=tuple(files),
        run=run,
    )


def _require_own(bundle: Path, out: Path) -> None:
    """Raise OutputError where the results would lie in the bundle, or among those of a build."""
    if out.resolve().is_relative_to(bundle.resolve()):
        raise OutputError(f"{out} lies in the bundle, which stays as it was signed; choose another --out")
    known = read_state(out).stages if out.is_dir() else {}
    if known and RECEIVED not in known:
        raise OutputError(f"{out} is the folder of a build; choose another --out, for what is measured here")
