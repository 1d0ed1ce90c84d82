"""Prints the requirements of the extras named on the command line, as pyproject.toml lists them.

So that the Makefile installs them before the package itself can be built.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("tomllib"):
    import tomllib
else:  # Python 3.10: pip carries its own copy
    from pip._vendor import tomli as tomllib

extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
print(*(requirement for name in sys.argv[1:] for requirement in extras[name]), sep="\n")
