"""Other people's files: the authors' pickle, shapes, per-layer tables of policies."""
