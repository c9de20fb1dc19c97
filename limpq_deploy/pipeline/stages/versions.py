"""What was at work: written into report and bundle."""

from limpq_deploy.calibration.version import __version__
from limpq_deploy.export.records.environment import read_environment


def versions() -> dict[str, str]:
    """This program, Python and the libraries at work."""
    environment = read_environment()
    return {"limpq-deploy": __version__, "python": environment.python, **environment.libraries}
