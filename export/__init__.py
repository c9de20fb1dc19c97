"""Artifacts: graphs, engines, measurements, bundles. Only ``graph/from_torch.py`` knows torch."""
