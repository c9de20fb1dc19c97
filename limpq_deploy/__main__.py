"""``python -m limpq_deploy``."""

from limpq_deploy.cli import main

main()
