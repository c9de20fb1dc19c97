"""``python -m limpq_deploy``."""

import os
import sys

if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]  # Python put it there: a torch.py in the working folder is no torch

from limpq_deploy.cli.main import main

main()
