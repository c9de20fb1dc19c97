# `just --list` shows these. CI runs .ci/run, which does the same from nothing.

# The quick suite, on a CPU, offline.
test *args:
    pytest -n 2 {{args}}

# Tests that take minutes.
slow *args:
    pytest -m slow {{args}}

# Campaigns of damaged, hostile and unlucky input: readers, onnx, artefacts. Each prints cases, passed, failed.
campaigns *args:
    python -m tests.campaigns.run {{args}}

# GPU tests and benchmark, on a machine with a GPU and TensorRT; results in OUT.
gpu out *args:
    python tests/gpu/run.py {{out}} {{args}}

lint:
    ruff check .
    ruff format --check .

types:
    mypy

format:
    ruff check --fix .
    ruff format .

# Renew docs/cli.md from the commands' own help, and the table of budgets from their rows.
docs:
    python docs/renew_cli.py
    python docs/renew_budgets.py
    python docs/renew_refusals.py

# All that CI does.
ci:
    bash .ci/run
