# `just --list` shows these. CI runs .ci/run, which does the same from nothing.

# The quick suite, on a CPU, offline.
test *args:
    pytest -n 2 {{args}}

# Tests that take minutes.
slow *args:
    pytest -m slow {{args}}

# Campaigns of damaged, hostile and unlucky input: readers, onnx, artefacts, folders, machines, signed, kills.
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

# Renew the generated pages and pictures, check the prose, build the site (needs the extra docs).
docs:
    python docs/renew_cli.py
    python docs/renew_budgets.py
    python docs/renew_refusals.py
    python docs/draw_pictures.py
    python docs/check_prose.py
    mkdocs build --strict

# The site while you write (needs the extra docs).
serve-docs:
    mkdocs serve

# Wheel and sdist, checked (needs the extra package).
package:
    rm -rf build/lib dist
    python -m build
    twine check --strict dist/*
    check-wheel-contents dist/*.whl

# All that CI does.
ci:
    bash .ci/run
