"""Which code built an engine; as `tensorrt.sources`, with the files of this folder."""

from functools import cache
from pathlib import Path

from limpq_deploy.calibration.version import __version__
from limpq_deploy.export.runtimes.tensorrt.sources import FOLDER, SOURCES, digest_of


@cache
def builder_digest() -> str:
    """Of the code as it is when it is first asked for."""
    here = sorted(Path(__file__).resolve().parent.glob("*.py"))
    return digest_of(__version__, (*(FOLDER / name for name in SOURCES), *here))
