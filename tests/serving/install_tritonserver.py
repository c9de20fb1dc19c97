"""Set up the real tritonserver of nvidia-pytriton in a folder of its own, for the tests of this folder.

    python tests/serving/install_tritonserver.py FOLDER
    LIMPQ_TRITON=FOLDER pytest tests/serving

It has the python backend only and serves on CPUs. It is old (2.51) and crashes on large JSON bodies: for loopback
tests, never for operators. Needs Python 3.11 and a package index; about 55 MB, and onnxruntime.
"""

import shutil
import stat
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

PACKAGES = ("nvidia-pytriton==0.7.0", "onnxruntime")  # pytriton pins numpy<2: an environment of its own

START = """#!/bin/sh
export LD_LIBRARY_PATH="{libraries}"
export PATH="{environment}/bin:$PATH"
export VIRTUAL_ENV="{environment}"
export PYTHONPATH="{site}"
exec "{server}" --backend-directory="{folder}/backends" "$@"
"""


def install(folder: Path) -> Path:
    """Make the environment, the backend folder and the start script ``FOLDER/tritonserver``."""
    folder = folder.resolve()
    environment = folder / "environment"
    if not (environment / "bin/python").exists():
        venv.create(environment, with_pip=True)
    subprocess.run([environment / "bin/python", "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    site = environment / "lib" / f"python{version}" / "site-packages"
    unpacked = site / "pytriton/tritonserver"
    backend = folder / "backends/python"
    shutil.copytree(unpacked / "backends/python", backend, dirs_exist_ok=True)
    shutil.copytree(unpacked / "python_backend_stubs" / version, backend, dirs_exist_ok=True)
    for program in (unpacked / "bin/tritonserver", *backend.glob("*stub*")):
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    libraries = f"{site / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    start = folder / "tritonserver"
    start.write_text(
        START.format(
            libraries=libraries, environment=environment, site=site, server=unpacked / "bin/tritonserver", folder=folder
        )
    )
    start.chmod(0o755)
    return start


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(install(Path(sys.argv[1])))
