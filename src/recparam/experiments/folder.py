"""The output folder of an experiment: new, empty, or one of the same experiment."""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recparam.utils.storage import write_json


class OutputFolderError(ValueError):
    """The output folder cannot be used as asked; nothing in it was touched."""


def prepare_folder(identity: Mapping[str, Any], out: Path) -> None:
    """Make the output folder, or check that it holds this experiment.

    Args:
        identity: What two commands must agree in to share the folder, as JSON; `experiment` is the experiment's name.
        out: The folder, where `settings.json` holds the identity.

    Raises:
        OutputFolderError: It is a file, is not writable, or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise OutputFolderError(f"out must be a folder; {out} is a file. Choose another --out.")
    stored = out / "settings.json"
    wanted = json.loads(json.dumps(identity))
    if out.is_dir() and not stored.is_file() and any(out.iterdir()):
        raise OutputFolderError(
            f"out must be new, empty or a folder of this experiment; {out} holds other files. Choose another --out."
        )
    if stored.is_file():
        try:
            found = json.loads(stored.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputFolderError(f"{stored} cannot be read ({error}). Choose another --out.") from error
        differing = _differences(found, wanted)
        if differing:
            raise OutputFolderError(
                f"out holds a run with other settings ({'; '.join(differing)}): {out}. "
                "Choose another --out, or repeat the settings it was made with."
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputFolderError(
            f"out must be writable; {out} is not ({error.strerror}). Choose another --out, or change its permissions."
        ) from error
    if not stored.is_file():
        write_json(stored, wanted)


def _differences(found: Any, wanted: dict[str, Any]) -> list[str]:
    if not isinstance(found, dict) or found.get("experiment") != wanted["experiment"]:
        return [f"it is not a {wanted['experiment']} experiment"]
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    return [f"{key} {found.get(key)} there, {wanted[key]} asked" for key in keys]
