"""Shape and type checks for every test and doctest; outside pytest they cost nothing."""

import sys

from jaxtyping import install_import_hook

if any(name == "recparam" or name.startswith("recparam.") for name in sys.modules):
    raise RuntimeError("recparam was imported before its shape checks could be switched on.")

# Held for the whole session: modules load lazily, so the hook has to outlive this file.
_hook = install_import_hook(["recparam"], "beartype.beartype")
