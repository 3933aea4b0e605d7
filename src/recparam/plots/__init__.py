"""Figures of the moving-balls experiment, drawn without global matplotlib state."""

from recparam.plots.curves import CEILING_TOLERANCE, above_ceiling, draw_curves
from recparam.plots.figure1 import Figure1Data, draw_figure1, figure1_caption
from recparam.plots.style import ARM_COLOURS, ARM_ORDER, arm_title, order_arms, save_figure
from recparam.plots.tracks import Tracks, draw_tracks, write_animation

__all__ = [
    "ARM_COLOURS",
    "ARM_ORDER",
    "CEILING_TOLERANCE",
    "Figure1Data",
    "Tracks",
    "above_ceiling",
    "arm_title",
    "draw_curves",
    "draw_figure1",
    "draw_tracks",
    "figure1_caption",
    "order_arms",
    "save_figure",
    "write_animation",
]
