"""The commands on fitted runs: each parses, calls and prints."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from recparam.runs.reading import DataFiles, Reading

if TYPE_CHECKING:
    from recparam.runs.scores import RunScore

_RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
_RunFolders = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
_OutFile = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
_Reading = Annotated[tyro.conf.FlagCreatePairsOff[Reading], tyro.conf.arg(name="")]
Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class PositionalFiles(DataFiles):
    """Files of which the data need no --data before them."""

    data: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA...")] = ()


Files = Annotated[PositionalFiles, tyro.conf.arg(name="")]


def transform(
    run: _RunFolder,
    /,
    *,
    files: Files,
    reading: _Reading,
    out: _OutFile,
    std: Switch = False,
    json: Switch = False,
) -> int:
    """Write the latents of data: one row per row of the data.

    Each row has its session, its time where it is known, and its number in the data, from 0. Latents of a second
    modality are written as z_prime. Files are read as in the fit, but for the options that are set.

    For example:
    - recparam transform run recording.npy -o latents.npz
    - recparam transform run monday.csv tuesday.csv -o latents.csv

    Args:
        run: Folder that recparam fit wrote.
        files: The data.
        reading: How files become rows.
        out: File to write: npz (arrays z, sessions, times, rows), csv or parquet (columns session, time, row, z1, ...).
        std: Write standard deviations too: of the columns' noise where latents are points.
        json: Print JSON.
    """
    from recparam.runs.files import check_latents_path, write_latents
    from recparam.runs.folder import load_run
    from recparam.utils.storage import json_text

    check_latents_path(out)
    loaded = load_run(run)
    recording = loaded.reading(reading).rows(files)

    def latents(rows: Any, name: str, **side: Any) -> dict[str, Any]:
        found = loaded.estimator.transform(rows, return_std=std, **side)
        return {f"z{name}": found[0], f"std{name}": found[1]} if std else {f"z{name}": found}

    blocks = latents(recording, "")
    z = blocks["z"]
    if files.data_prime:
        prime = loaded.pairs(recording, files, options=reading).recording_prime
        blocks |= latents(prime, "_prime", side="x_prime")
    write_latents(out, blocks, recording=recording)
    if json:
        shape = {"rows": z.shape[0], "latents": z.shape[1]}
        print(json_text({"run": run, "data": files.data, "out": out, **shape, "std": std}))
    else:
        print(f"Wrote {out}: {z.shape[1]} latents of {z.shape[0]} rows.")
    return 0


def score(
    run: _RunFolder,
    /,
    *,
    files: Files,
    reading: _Reading,
    json: Switch = False,
) -> int:
    """Print the ELBO on data, with its kind, its ceiling and a 95 % interval.

    Of the data of the fit only the rows held out then are scored. Files are read as in the fit, but for the options
    that are set.

    For example:
    - recparam score run recording.npy
    - recparam score run another.npy --json

    Args:
        run: Folder that recparam fit wrote.
        files: The data.
        reading: How files become rows.
        json: Print JSON.
    """
    from recparam.runs.folder import load_run
    from recparam.runs.scores import pairs_to_score, score_pairs
    from recparam.utils.storage import json_text

    loaded = load_run(run)
    (pairs,), left_out = pairs_to_score([loaded], files, options=reading)
    scored = score_pairs(loaded.estimator, pairs)
    if json:
        print(json_text({"run": run, "data": files.data, "only_held_out": left_out, **scored.facts()}))
    else:
        print_scored(scored, what=_whose(left_out))
    return 0


def compare(
    runs: _RunFolders,
    /,
    *,
    files: Annotated[DataFiles, tyro.conf.arg(name="")],
    reading: _Reading,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    overwrite: Switch = False,
    json: Switch = False,
) -> int:
    """Compare runs by their evidence on the same pairs: both sides of each, and each two with a verdict.

    The difference of two is that of their estimates, with a paired 95 % interval, and lies between lower A -
    upper B and upper A - lower B. Rows that a run was trained on are left out for all. Each run reads the files as in
    its fit, but for the options that are set.

    For example:
    - recparam compare run1 run2 --data recording.npy
    - recparam compare gaussian linear cosine --data another.npy --out compared
    - recparam compare run1 run2 --data recording.npy --json

    Args:
        runs: Folders that recparam fit wrote, at least two, of one lag.
        files: The data.
        reading: How files become rows.
        out: Folder to write: comparison.json, models.csv, differences.csv and a figure as PNG and PDF.
        overwrite: Replace a comparison that is there.
        json: Print JSON.
    """
    from recparam.runs.compared import check_comparison, compare_runs, names_of, write_comparison
    from recparam.runs.folder import load_run
    from recparam.runs.scores import pairs_to_score
    from recparam.utils.storage import json_text

    names = names_of(runs)
    if out is not None:
        check_comparison(out, overwrite=overwrite)
    loaded = [load_run(folder) for folder in runs]
    pairs, left_out = pairs_to_score(loaded, files, options=reading)
    found = compare_runs(names, loaded, pairs)
    folders = dict(zip(names, runs, strict=True))
    facts = {"data": files.data, "only_held_out": left_out, "runs": folders, **found.facts()}
    written = [] if out is None else write_comparison(out, found, facts)
    if json:
        print(json_text(facts))
    else:
        print(found)
        print(f"Rows: the {found.rows} pairs {'that no run was trained on' if left_out else 'in the data'}.")
        if out is not None:
            print(f"Wrote {out}: {', '.join(written)}.")
    return 0


def report(
    run: _RunFolder, /, *, labels: Path | None = None, key: str | None = None, json: Switch = False
) -> int:
    """Write RUN/report.html again, its latents coloured by labels too.

    For example:
    - recparam report run
    - recparam report run --labels behaviour.csv
    - recparam report run --labels recording.npz --key position

    Args:
        run: Folder that recparam fit wrote.
        labels: File with a row of numbers per row of the data of the fit: npy, npz, csv or parquet.
        key: One array or column of that file. None: all with as many rows as the data.
        json: Print JSON.
    """
    from recparam.runs.folder import load_run, write_page_of
    from recparam.utils.storage import json_text

    page = write_page_of(load_run(run), labels=labels, key=key)
    print(json_text({"run": run, "report": page}) if json else f"Wrote {page}.")
    return 0


def _whose(left_out: bool) -> str:
    return "held out when the model was fitted" if left_out else "in the data"


def print_scored(scored: "RunScore", *, what: str) -> None:
    """Print a bound and its interval.

    Args:
        scored: The bound.
        what: Where its pairs are from.
    """
    print(scored.bound)
    (_, low, high), blocks, _ = scored.interval
    if low is None or high is None:
        from recparam.evaluation.series import FEWEST

        print(f"no interval: {scored.pairs} pairs {what} make {blocks} independent blocks, of {FEWEST} that it needs")
    else:
        print(f"95 % interval {low:.3f} to {high:.3f} nats: {scored.pairs} pairs {what}, {blocks} independent blocks")
