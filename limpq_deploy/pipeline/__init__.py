"""A build: its settings, what it is about, and its stages."""
