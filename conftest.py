"""Shape and type checks for every test and doctest; outside pytest they cost nothing."""

import sys
from importlib.util import find_spec

from jaxtyping import install_import_hook

if any(name == "recparam" or name.startswith("recparam.") for name in sys.modules):
    raise RuntimeError("recparam was imported before its shape checks could be switched on.")

# Optional dependencies: without them there is nothing to collect doctests from.
_OPTIONAL = {"triton": "src/recparam/ops/triton_kernels.py", "zuko": "src/recparam/marginals/flows.py"}
collect_ignore = [file for package, file in _OPTIONAL.items() if not find_spec(package)]

# Held for the whole session: modules load lazily, so the hook has to outlive this file.
_hook = install_import_hook(["recparam"], "beartype.beartype")
