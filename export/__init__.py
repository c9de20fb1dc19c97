"""Artifacts: graphs, engines, measurements, bundles. Only ``graph.py`` knows torch."""
