"""From a finished build to a model repository: what is shipped, checked before anything is written."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from limpq_deploy.calibration.errors import LimpqError, ModelError, SettingError
from limpq_deploy.calibration.records import to_json
from limpq_deploy.export.runtimes.base import Engine
from limpq_deploy.export.runtimes.onnxruntime.session import EXACT_PAIR_WEIGHT, largest_weight_code
from limpq_deploy.export.ship.accepted import newest_accepted
from limpq_deploy.export.ship.manifest import SIGNATURE, CanaryFiles, Manifest
from limpq_deploy.export.ship.repository import (
    Keys,
    Serving,
    ShippedVersion,
    load_serving,
    require_model_name,
    ship_version,
)
from limpq_deploy.export.ship.shipped_plans import (
    ShippedPlan,
    check_batches,
    engine_of_build,
    plan_of_build,
    read_plans,
    require_plans,
)
from limpq_deploy.export.ship.signature import fingerprint_of
from limpq_deploy.export.ship.triton.config import (
    BACKENDS,
    EXACT_SUMS,
    NO_CACHE,
    PLANS,
    TWIN,
    ServingOptions,
    make_config,
    read_labels,
)
from limpq_deploy.export.ship.triton.config_check import check_config
from limpq_deploy.export.ship.triton.served_io import LABELS, ServedIO, read_io
from limpq_deploy.export.ship.verify import load_manifest, verify_bundle
from limpq_deploy.serving.candidates import bundle_of, recommendation_of, recommended_notes
from limpq_deploy.workspace.file_names import CANDIDATE_BUNDLES, ENGINE
from limpq_deploy.workspace.finished import checked

THROUGHPUT_NOTE = (
    "requests wait up to {delay} microseconds for others to share a batch: more images per second under load, a longer "
    "p50 of a lone request, and on the servers that we measured up to 1.7 % of requests stalled for about 500 ms"
)


OF_CONFIG = {
    "max_batch": "--max-batch",
    "instances": "--instances",
    "threads": "--threads",
    "queue_delay_us": "--throughput",
}
"""Fields of `ServingOptions` that a configuration of ours says, with their options."""


class ShipRefused(LimpqError):
    """A build is not to be served as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """What `ship` did. ``notes``: sentences that an operator should read."""

    folder: str
    name: str
    version: int
    backend: str
    kept: tuple[int, ...]
    signed: bool
    notes: tuple[str, ...] = ()
    format: Literal["limpq.shipped/1"] = field(default="limpq.shipped/1")


def ship(
    build: Path,
    repository: Path,
    options: ServingOptions,
    *,
    name: str | None = None,
    config: Path | None = None,
    plans: Mapping[str, Path] | None = None,
    keep: int = 3,
    force: bool = False,
    candidate: str | None = None,
    keys: Keys | None = None,
) -> Shipped:
    """Add a finished build (or a bundle) to a model repository and serve it.

    ``config``: one's own config.pbtxt, checked like ours. ``plans``: TensorRT plans by compute capability ("" for the
    only one); none: the one that the build made, where this machine keeps it. ``keep``: versions that remain for a
    rollback. ``candidate``: another file of the build's than the policy's own.
    ``keys.public``: of bundle and repository, where signed.
    Raises ShipRefused for a failed verdict, and PlanNotShipped for a plan of which nothing is known or that is of
    another target, version or GPU than the build's, both without ``force``; ConfigRefused for a configuration that does
    not fit, BundleRefused for a damaged bundle, OutputError where it cannot be written.
    """
    keys = keys or Keys()
    _require_one_config(options, config)
    bundle = bundle_of(build, candidate)
    public = _key_for(bundle, keys)
    verify_bundle(bundle, public)
    checked(bundle if bundle.parent.name != CANDIDATE_BUNDLES else bundle.parent)
    manifest = load_manifest(bundle, public)
    forced = _require_verdict(manifest, force, candidate)
    takes_plans = BACKENDS[options.backend].plans
    built = _engine(build, bundle) if takes_plans else None
    if takes_plans and not plans:
        plans = plan_of_build(built, bundle)
    _require_plans(options, plans or {})
    name = name or re.sub(r"[^A-Za-z0-9_.-]+", "_", manifest.model).lstrip(".-")
    require_model_name(name)
    io = read_io(bundle / manifest.model_file)
    labels = (bundle / LABELS).read_bytes() if (bundle / LABELS).is_file() else b""
    parameters = _parameters(bundle, manifest) | _threads(options)
    shipped_plans = read_plans(
        plans or {},
        parameters["limpq.model_sha256"],
        backend=options.backend,
        target=manifest.target,
        built=built,
    )
    forced = "; ".join(filter(None, (forced, require_plans(shipped_plans, force))))
    named_plans = {plan.capability: plan.name for plan in shipped_plans if plan.capability}
    files = _files(bundle, manifest, options, shipped_plans)

    def describe(version: int) -> ShippedVersion:
        text = _config_text(name, io, options, version, parameters, named_plans, read_labels(labels), config)
        return ShippedVersion(
            version=version,
            backend=options.backend,
            model=manifest.model,
            target=manifest.target,
            model_file=f"{version}/model.onnx",
            canaries=replace(
                manifest.canaries,
                inputs=f"{version}/{manifest.canaries.inputs}",
                outputs=f"{version}/{manifest.canaries.outputs}",
            ),
            environment=manifest.environment,
            versions=manifest.versions,
            policy=manifest.policy,
            verdict=manifest.verdict,
            preprocess=manifest.preprocess,
            engine=manifest.engine,
            answered_by=manifest.answered_by,
            config=text,
            labels=labels.decode(errors="backslashreplace"),
            forced=forced,
            gpus=tuple(plan.machine for plan in shipped_plans if plan.machine is not None),
        )

    def check(new: ShippedVersion, versions: tuple[int, ...]) -> None:
        max_batch_size = check_config(
            new.config,
            name=name,
            io=io,
            backend=options.backend,
            labels=read_labels(labels),
            versions=versions,
            plans=named_plans,
        )
        check_batches(max_batch_size, shipped_plans)

    serving = ship_version(repository, name, files, describe, keep=keep, keys=keys, check=check)
    notes = (*_undecided_notes(manifest), *recommended_notes(manifest, candidate), *_notes(options, parameters, forced))
    return _shipped(repository / name, serving, keys, notes)


def _key_for(bundle: Path, keys: Keys) -> Path | None:
    """The key that a bundle is checked with; None for an unsigned one that the holder of the private key ships, which
    was never a signed one here: a bundle does not lose its signature by itself."""
    if keys.public is None or (bundle / SIGNATURE).exists():
        return keys.public
    if keys.private is None or newest_accepted(bundle, fingerprint_of(keys.public)):
        raise ShipRefused(
            f"{bundle} is not signed ({SIGNATURE} is missing); expected a signature of {keys.public}: fetch it again, "
            "or sign it with limpq-deploy sign where it is yours"
        )
    return None


def _shipped(folder: Path, serving: Serving, keys: Keys, notes: tuple[str, ...] = ()) -> Shipped:
    active = serving.version(serving.active)
    assert active is not None
    return Shipped(
        folder=str(folder),
        name=serving.name,
        version=serving.active,
        backend=active.backend,
        kept=tuple(shipped.version for shipped in serving.shipped),
        signed=keys.private is not None,
        notes=notes,
    )


def rolled_back(folder: Path, version: int, keys: Keys | None = None) -> Shipped:
    """Serve another version of a model's folder; see `export.ship.repository.roll_back`."""
    from limpq_deploy.export.ship.repository import roll_back

    keys = keys or Keys()
    return _shipped(folder, roll_back(folder, version, keys=keys), keys)


def served(folder: Path, public_key: Path | None = None) -> Serving:
    """What a model's folder serves, every file checked."""
    return load_serving(folder, public_key)


def _engine(build: Path, bundle: Path) -> Engine | None:
    """The engine that was measured of what is shipped."""
    own = bundle.parent.name != CANDIDATE_BUNDLES
    return engine_of_build(checked(build / ENGINE).parent if own else bundle, bundle)


def _require_verdict(manifest: Manifest, force: bool, candidate: str | None) -> str:
    """Empty for a verdict that may be served; what it was where ``force`` overrides it. A failed verdict is one on the
    policy's own file: what is recommended instead may be served."""
    verdict = manifest.verdict if isinstance(manifest.verdict, dict) else {}
    outcome = str(verdict.get("outcome", "missing"))
    recommended = recommendation_of(manifest)
    if candidate is not None and candidate == recommended.get("candidate") != recommended.get("own"):
        return ""
    if outcome in ("passed", "undecided", "incomplete"):
        return ""
    if force:
        return f"the verdict was {outcome!r}; shipped with --force"
    checks = verdict.get("checks", [])
    failed = [str(check.get("name")) for check in checks if isinstance(check, dict) and check.get("passed") is False]
    what = f" ({', '.join(failed)})" if failed else ""
    raise ShipRefused(
        f"the verdict of this build is {outcome!r}{what}; expected one that has not failed: build again, or ship it "
        "with --force, which the manifest records"
    )


def _undecided_notes(manifest: Manifest) -> tuple[str, ...]:
    """What the verdict leaves open, which an operator has to know."""
    verdict = manifest.verdict if isinstance(manifest.verdict, dict) else {}
    left = [one for one in verdict.get("undecided", ()) if isinstance(one, dict)]
    return tuple(f"the verdict does not decide {one.get('name')}: {one.get('detail')}" for one in left)


def _require_one_config(options: ServingOptions, config: Path | None) -> None:
    """Raise SettingError where settings would be written into a configuration that the user brings whole."""
    usual = ServingOptions(backend=options.backend)
    idle = [option for name, option in OF_CONFIG.items() if getattr(options, name) != getattr(usual, name)]
    if config is not None and idle:
        raise SettingError(
            f"{' and '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect with --config {config}, which is "
            f"served as it is; say it there, and leave {'it' if len(idle) == 1 else 'them'} away"
        )


def _require_plans(options: ServingOptions, plans: Mapping[str, Path]) -> None:
    if not BACKENDS[options.backend].plans:
        if plans:
            wanted = " or ".join(PLANS)
            raise SettingError(f"--plan belongs to --backend {wanted}, not {options.backend}; leave one of them away")
        return
    if not plans:
        raise ShipRefused(
            "found no TensorRT plan, neither given nor of this build on this machine; expected one for the server's "
            "GPU and TensorRT version: build it there from model.onnx and give --plan FILE, or ship with --backend "
            "onnxruntime or python"
        )
    if "" in plans and len(plans) > 1:
        raise SettingError("a plan without compute capability stands beside others; give --plan 9.0=FILE for each")
    for capability, plan in plans.items():
        if capability and not re.fullmatch(r"\d+\.\d", capability):
            raise SettingError(f"--plan {capability}=...: expected a compute capability such as 9.0")
        if not plan.is_file() or plan.stat().st_size == 0:
            raise ModelError(f"{plan} is no TensorRT plan: it is missing or empty; build it again")


def _files(
    bundle: Path, manifest: Manifest, options: ServingOptions, plans: tuple[ShippedPlan, ...]
) -> dict[str, Path | bytes]:
    canaries: CanaryFiles = manifest.canaries
    files: dict[str, Path | bytes] = {name: bundle / name for name in (canaries.inputs, canaries.outputs)}
    files["model.onnx"] = bundle / manifest.model_file
    if options.backend == "python":
        files |= {BACKENDS["python"].file: TWIN, "__pycache__": NO_CACHE}
    for plan in plans:
        files |= plan.files
    return files


def _parameters(bundle: Path, manifest: Manifest) -> dict[str, str]:
    import onnx

    model = bundle / manifest.model_file
    sha256 = next(file.sha256 for file in manifest.files if file.name == manifest.model_file)
    exact = largest_weight_code(onnx.load(model, load_external_data=False)) > EXACT_PAIR_WEIGHT
    return {
        "limpq.model": manifest.model,
        "limpq.target": manifest.target,
        "limpq.model_sha256": sha256,
        "limpq.policy_sha256": _digest(manifest.policy),
        "limpq.program": manifest.versions.get("limpq-deploy", "unknown"),
        EXACT_SUMS: "1" if exact else "0",
    }


def _threads(options: ServingOptions) -> dict[str, str]:
    """The parameter that each CPU backend reads its threads from."""
    if options.threads is None:
        return {}
    parameter = BACKENDS[options.backend].threads
    if parameter is None:
        raise SettingError(f"--threads is for CPUs; leave it away with --backend {options.backend}")
    return {parameter: str(options.threads)}


def _digest(policy: Any) -> str:
    """SHA-256 of a policy's JSON as we write it."""
    return hashlib.sha256(to_json(policy).encode()).hexdigest()


def _config_text(
    name: str,
    io: ServedIO,
    options: ServingOptions,
    version: int,
    parameters: Mapping[str, str],
    plans: Mapping[str, str],
    labels: tuple[str, ...],
    own: Path | None,
) -> str:
    if own is None:
        return make_config(name, io, options, version, parameters, plans, labels)
    try:
        return own.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"cannot read {own} ({error}); expected a config.pbtxt") from error


def _notes(options: ServingOptions, parameters: Mapping[str, str], forced: str) -> tuple[str, ...]:
    notes = [forced] if forced else []
    if options.queue_delay_us is not None:
        notes.append(THROUGHPUT_NOTE.format(delay=options.queue_delay_us))
    if BACKENDS[options.backend].saturates and parameters[EXACT_SUMS] == "1":
        notes.append(
            "weights of more than 7 bits saturate in ONNX Runtime's default kernels on x86 CPUs without VNNI, and "
            f"Triton's {options.backend} backend is not told to avoid them: run health against the server, or ship the "
            "python backend, which avoids them itself"
        )
    return tuple(notes)
