"""limpq-deploy: from a trained PyTorch CNN to a mixed-precision engine, proved in integers."""

__version__ = "0.1.0"
