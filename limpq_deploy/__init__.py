"""limpq-deploy: from a trained PyTorch CNN to a mixed-precision engine, proved in integers."""

from limpq_deploy.calibration.version import __version__

__all__ = ["__version__"]
