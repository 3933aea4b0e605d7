"""Priors of motion compared on a recorded series: held-out evidence and linear decoding (docs/rat.md)."""

from functools import partial
from pathlib import Path

from recparam.experiments.grid import Experiment
from recparam.experiments.rat.settings import Settings


def rat_experiment(settings: Settings, path: Path, *, counts: str, position: str) -> Experiment:
    """The experiment on the series of a file; arguments and errors as of `read_series`."""
    from recparam.experiments.rat.measure import conclude, measure_arm
    from recparam.experiments.rat.plot import draw_rat
    from recparam.experiments.rat.series import read_series

    series = read_series(path, settings, counts=counts, position=position)
    measure = partial(measure_arm, settings, series)
    return Experiment(measure, settings.identity(series.checksum), settings.arms(), conclude, draw_rat)
