"""Bundles, signatures, model repositories: what is shipped, written whole and checked before it is opened."""
