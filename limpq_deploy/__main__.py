"""``python -m limpq_deploy``."""

from limpq_deploy.cli.main import main

main()
