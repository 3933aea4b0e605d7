"""What `recparam dims` does: fits with several numbers of latents, and the folder that says what each is worth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recparam.comparison.dims import choose_latent_dim
from recparam.comparison.knee import LatentDims
from recparam.data.pairs import Pairs
from recparam.data.recording import Recording
from recparam.estimator import RPMEstimator
from recparam.estimator.settings import Settings
from recparam.runs.folder import check_free
from recparam.training import TrainingDiverged
from recparam.utils.storage import replacing_folder, write_json

_FACTS, _FIGURE = "dims.json", "dims.png"


def choose_dims(
    recording: Recording, settings: Settings, *, latents: Sequence[int], declared: Pairs | None
) -> LatentDims:
    """`rp.choose_latent_dim` on the rows of files, with progress on standard error.

    Raises:
        ValueError: Data or settings that cannot be fitted.
    """
    estimator = RPMEstimator(**vars(settings), progress=True)
    try:
        return choose_latent_dim(estimator, recording, dims=latents, restarts=settings.restarts, pairs=declared)
    except TrainingDiverged as error:
        raise ValueError(
            f"Expected bounds that stay finite; got another at step {error.step}. Lower the learning rate (now "
            f"{error.lr:g}), or check the data for extreme rows."
        ) from error
    except ValueError as error:
        text = re.sub(r"\bdims=\(([\d, ]+)\)", lambda found: f"latents={found[1].replace(',', '')}", str(error))
        raise ValueError(re.sub(r"\bdims\b", "latents", text)) from error  # --dims are the axes of arrays


def check_dims(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something else, before any work; see `check_free`."""
    check_free(out, holds=_FACTS, what="a choice of the number of latents", overwrite=overwrite)


def write_dims(out: Path, found: LatentDims, facts: Mapping[str, Any]) -> None:
    """Write a folder, whole or not at all: dims.json and dims.png.

    Args:
        out: The folder; one that is there is replaced.
        found: The choice.
        facts: What dims.json says.
    """
    with replacing_folder(out) as folder:
        write_json(folder / _FACTS, facts)
        found.plot().savefig(folder / _FIGURE, dpi=150)
