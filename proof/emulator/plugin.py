"""For pytest: from here on there is a GPU in software. `python -m proof.emulator` loads it."""

import ctypes
import os
from pathlib import Path

from fused_dropout import _C

from . import RUNTIME, operations
from .device import Device

device = Device(ctypes.CDLL(os.environ[RUNTIME]), Path(_C.__file__))
_operations = operations.install(device.replay)
