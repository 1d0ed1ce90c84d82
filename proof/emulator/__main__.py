"""Runs pytest with a GPU in software: ``python -m proof.emulator [arguments of pytest]``."""

import os
import subprocess
import sys

from . import PLUGIN, absent, environment

if reason := absent():
    sys.exit(f"proof.emulator: {reason}")
with environment() as variables:
    command = [sys.executable, "-m", "pytest", *PLUGIN, *sys.argv[1:]]
    sys.exit(subprocess.run(command, env={**os.environ, **variables}).returncode)
