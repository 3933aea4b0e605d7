"""The command that chooses the number of latents for your own data: it parses, calls and prints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from recparam.cli.fit import read_rows
from recparam.cli.runs import Files, Switch
from recparam.estimator.settings import Settings
from recparam.runs.reading import Reading

_LATENTS, _STARTS = (1, 2, 3, 4, 6), 2


@dataclass(kw_only=True, eq=False)
class _Settings(Settings):
    latent_dim: tyro.conf.Suppress[int] = Settings.latent_dim  # --latents says which
    restarts: Annotated[
        int, tyro.conf.arg(help="Starts for each number of latents; a fit has 4. 1: nothing else is chosen.")
    ] = _STARTS
    max_steps: Annotated[
        int | None, tyro.conf.arg(help="Steps of the optimiser, at most. None: half of a fit's, 540; 240 for frames.")
    ] = None
    random_state: Annotated[
        int | None, tyro.conf.arg(name="seed", help="The same seed gives the same fits. None: others every time.")
    ] = 0


def dims(
    *,
    files: Files,
    latents: tuple[int, ...] = _LATENTS,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    seconds: tuple[float, ...] | None = None,
    rate: float | None = None,
    settings: Annotated[_Settings, tyro.conf.arg(name="")],
    reading: Annotated[Reading, tyro.conf.arg(name="")],
    overwrite: Switch = False,
    json: Switch = False,
) -> int:
    """Choose the number of latents for your own data by held-out evidence.

    A fit with each number is scored on the same held-out rows. Encoder, window and lag are chosen once, with the middle
    number, and kept. The budget is printed first: fits have two starts and half of the steps of recparam fit.

    For example:
    - recparam dims recording.npy
    - recparam dims recording.npy --latents 2 3 4 6 8 --out worth
    - recparam dims monday.csv tuesday.csv --window 11 --restarts 1 --json

    Args:
        files: The data.
        latents: Numbers of latents to fit.
        out: Folder to write: dims.json and dims.png.
        seconds: Time from x to x' in place of --lag, by --rate or by the times in the file.
        rate: Rows per second.
        settings: Of the estimator.
        reading: How files become rows.
        overwrite: Replace what this command wrote there.
        json: Print JSON.
    """
    from recparam.runs.dims import check_dims, choose_dims, write_dims
    from recparam.utils.storage import json_text

    if out is not None:
        check_dims(out, overwrite=overwrite)
    recording, settings = read_rows(dims, files, reading, settings, seconds=seconds, rate=rate)
    if not json:
        print(*recording.notes, f"Data: {recording!r}", sep="\n")
    found = choose_dims(recording, settings, latents=latents, declared=reading.declared(recording, files))
    facts = {"data": files.data, **found.facts()}
    if out is not None:
        write_dims(out, found, facts)
    if json:
        print(json_text(facts))
        return 0
    print(found)
    if out is not None:
        print(f"Wrote {out}: dims.json, dims.png.")
    print(f"Fit it: recparam fit, with the same data and options, and --latent-dim {found.chosen}.")
    return 0
