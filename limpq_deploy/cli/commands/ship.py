"""Commands around serving: keys, repositories, rollback, health. Thin; heavy imports inside."""

import json
import sys
from pathlib import Path
from typing import Any

import click

import limpq_deploy
from limpq_deploy.calibration.plain_text import plain
from limpq_deploy.cli.options.choice import OneOf
from limpq_deploy.cli.options.idle import refuse_idle
from limpq_deploy.cli.options.shared import FILE, json_option
from limpq_deploy.cli.output.answers import answer, aside
from limpq_deploy.cli.output.exit_codes import FAILED
from limpq_deploy.export.ship.triton.config import BACKENDS

LONGEST_NOTE = 2000
"""Characters of a note, some of which cite a bundle."""


def key_option(command: Any) -> Any:
    return click.option(
        "--key",
        type=FILE,
        metavar="PUB",
        envvar="LIMPQ_PUBLIC_KEY",
        show_envvar=True,
        help="Public key: refuse what is not signed by it.",
    )(command)


def sign_option(command: Any) -> Any:
    return click.option("--sign", type=FILE, metavar="KEY", help="Sign the manifest with this private key.")(command)


@click.command(short_help="Make a key pair for signatures.")
@click.argument("key", metavar="KEY", type=FILE)
@json_option
def keygen(key: Path, as_json: bool) -> None:
    """Make an Ed25519 key pair: KEY, which signs and stays secret, and KEY.pub, which servers check with."""
    from limpq_deploy.export.ship.signature import write_key_pair

    public = key.with_name(key.name + ".pub")
    write_key_pair(key, public)
    if as_json:
        answer(json.dumps({"private": str(key), "public": str(public)}))
    else:
        answer(f"{key} signs; keep it secret\n{public} checks: give it to those who serve")


@click.command(short_help="Add a build to a Triton model repository.")
@click.argument("folder", metavar="DIR", type=FILE)
@click.argument("repository", metavar="REPOSITORY", type=FILE)
@click.option(
    "--backend",
    type=OneOf(tuple(BACKENDS)),
    default="onnxruntime",
    show_default=True,
    help="Triton backend that runs the model; python is the model on the CPU.",
)
@click.option("--name", metavar="NAME", help="Name of the model in the repository.  [default: the build's model]")
@click.option(
    "--max-batch", type=click.IntRange(min=1), default=8, show_default=True, metavar="N", help="Images per request."
)
@click.option(
    "--instances",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Copies of the model that answer at the same time.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Threads of each copy.  [default: the runtime's choice]"
)
@click.option(
    "--throughput",
    type=click.IntRange(min=1),
    metavar="US",
    help="Let requests wait US microseconds to share a batch; off by default, as some requests then wait for nothing.",
)
@click.option("--config", type=FILE, metavar="FILE", help="Your own config.pbtxt, checked like a generated one.")
@click.option(
    "--plan",
    "plans",
    multiple=True,
    metavar="[CC=]FILE",
    help="TensorRT plan, or one for each compute capability.  [default: the build's]",
)
@click.option(
    "--candidate",
    type=OneOf(["mixed", "uniform", "int8", "fp8", "float"]),
    help="Ship this file of the build.  [default: the policy's own]",
)
@click.option("--keep", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Versions to keep.")
@click.option("--force", is_flag=True, help="Ship in spite of a failed verdict or a doubtful plan; recorded.")
@sign_option
@key_option
@json_option
def ship(
    folder: Path,
    repository: Path,
    backend: Any,
    name: str | None,
    max_batch: int,
    instances: int,
    threads: int | None,
    throughput: int | None,
    config: Path | None,
    plans: tuple[str, ...],
    candidate: str | None,
    keep: int,
    force: bool,
    sign: Path | None,
    key: Path | None,
    as_json: bool,
) -> None:
    """Add a finished build to a Triton model repository as the next version, and serve that version.

    Configuration, names, shapes, labels, warm-up and free space are checked before anything is written; version,
    configuration and manifest change together in one rename. A failed verdict is not shipped, nor is a plan without its
    record, or of another target, TensorRT version or GPU than the build's.

    \b
    limpq-deploy ship limpq-build models --backend python
    limpq-deploy ship limpq-build models --sign release.key --key release.key.pub
    """
    done = limpq_deploy.ship(
        folder,
        repository,
        backend=backend,
        max_batch=max_batch,
        instances=instances,
        threads=threads,
        queue_delay_us=throughput,
        name=name,
        config=config,
        plans=dict(map(_split_plan, plans)),
        candidate=candidate,
        keep=keep,
        force=force,
        sign=sign,
        key=key,
    )
    _tell(done, as_json)


@click.command(short_help="Serve an older version again.")
@click.argument("folder", metavar="REPOSITORY/NAME", type=FILE)
@click.argument("version", metavar="VERSION", type=click.IntRange(min=1))
@sign_option
@key_option
@json_option
def rollback(folder: Path, version: int, sign: Path | None, key: Path | None, as_json: bool) -> None:
    """Serve a version that is still in a model's folder, with the configuration that it was shipped with."""
    from limpq_deploy.export.ship.repository import Keys
    from limpq_deploy.serving.ship import rolled_back

    _tell(rolled_back(folder, version, Keys(private=sign, public=key)), as_json)


@click.command(short_help="Check that a running server answers correctly.")
@click.argument("url", metavar="URL")
@click.option(
    "--bundle", type=FILE, metavar="DIR", help="Bundle or REPOSITORY/NAME with the recorded images and answers."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=4.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for each answer.",
)
@key_option
@json_option
def health(url: str, bundle: Path | None, timeout: float, key: Path | None, as_json: bool) -> None:
    """Send a bundle's canaries (recorded images) to a running server and compare the answers.

    URL is http://HOST:PORT/MODEL or grpc://HOST:PORT/MODEL; MODEL may be left out where --bundle names it, and
    /MODEL/versions/N checks one version. For a REPOSITORY/NAME the canaries are those of the version that answers.
    Without --bundle, one black image must get finite numbers. Exit code 1: no answer; 3: a wrong one.
    """
    from limpq_deploy.calibration.records import to_dict
    from limpq_deploy.serving.health import check_health

    if bundle is None:
        refuse_idle(("key",), "without --bundle, whose signature it is for")
    found = check_health(url, bundle=bundle, public_key=key, timeout_s=timeout)
    if as_json:
        answer(json.dumps({**to_dict(found), "passed": found.passed}))
    elif found.differing is None:
        answer(f"{found.address}: answers, in {found.seconds:.2f} s; give --bundle to check what")
    else:
        wrong = f"{found.differing} of {found.logits} numbers differ" if found.differing else "every number is equal"
        answer(f"{found.address}: {found.images} canaries in {found.seconds:.2f} s: {wrong}")
    if found.behind:
        aside(f"note: version {found.version} answers; {bundle} is to serve version {found.active}: load the model")
    if not found.passed:
        sys.exit(FAILED)


def add_ship_commands(group: click.Group) -> None:
    """Add the commands of this file to a group."""
    for command in (keygen, ship, rollback, health):
        group.add_command(command)


def _split_plan(text: str) -> tuple[str, Path]:
    """``9.0=FILE`` -> ("9.0", FILE); ``FILE`` -> ("", FILE)."""
    capability, _, file = text.rpartition("=")
    return capability, Path(file)


def _tell(done: Any, as_json: bool) -> None:
    from limpq_deploy.calibration.records import to_dict

    if as_json:
        answer(json.dumps(to_dict(done)))
        return
    kept = ", ".join(map(str, done.kept))
    signed = ", signed" if done.signed else ""
    answer(f"{done.folder}: version {done.version} is served by {done.backend}{signed}; versions there: {kept}")
    if len(done.kept) > 1:
        aside("note: a running server goes on with what it has loaded until it loads the model again")
    for note in done.notes:
        aside(f"note: {plain(note, LONGEST_NOTE)}")
