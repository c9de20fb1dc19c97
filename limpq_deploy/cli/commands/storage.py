"""The command that unpacks stored weights. Thin; heavy imports inside."""

import json
from pathlib import Path

import click

from limpq_deploy.cli.options.shared import FILE, NEW_FILE, json_option
from limpq_deploy.cli.output.answers import answer


@click.command(short_help="Restore the engine's file from one with packed weights.")
@click.argument("model", metavar="MODEL.onnx", type=FILE)
@click.option("-o", "--output", type=NEW_FILE, required=True, metavar="FILE", help="Name of the engine's file.")
@json_option
def unpack(model: Path, output: Path, as_json: bool) -> None:
    """Restore the engine's file, byte for byte, from the one that build --storage wrote; no torch, no runtime."""
    from limpq_deploy.calibration.errors import SettingError
    from limpq_deploy.calibration.files import sha256_of, write_bytes
    from limpq_deploy.export.graph.loading import load_model
    from limpq_deploy.export.graph.storage import unpack_weights

    if output.exists() and output.samefile(model):
        raise SettingError(f"-o names the stored file {model} itself, which would be lost; name another file")
    write_bytes(output, unpack_weights(load_model(model)).SerializeToString(deterministic=True))
    digest, size = sha256_of(output), output.stat().st_size
    if as_json:
        answer(json.dumps({"output": str(output), "sha256": digest, "size": size}))
    else:
        answer(f"{output}: {size:,} bytes, SHA-256 {digest}")
