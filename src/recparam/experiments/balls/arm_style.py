"""Names, order and colours of the arms of the moving balls."""

from collections.abc import Mapping, Sequence

ARM_ORDER: tuple[str, ...] = (
    "supervised",
    "steps",
    "velocity-steps",
    "velocity",
    "recipe",
    "gaussian",
    "linear",
    "untrained",
    "constant",
)
"""The order in which the arms of the experiment are drawn and tabulated."""
# Okabe & Ito's palette, which stays distinct under the common colour-vision deficiencies. Arms that
# learn have a hue, the two controls are grey.
ARM_COLOURS: dict[str, str] = {
    "supervised": "#0072B2",
    "steps": "#CC79A7",
    "velocity-steps": "#56B4E9",
    "velocity": "#B8A500",
    "recipe": "#009E73",
    "gaussian": "#E69F00",
    "linear": "#D55E00",
    "untrained": "#8C8C8C",
    "constant": "#BDBDBD",
}
"""One colour per arm, the same in every panel."""
_ARM_TITLES = {"gaussian": "Gaussian"}
_OTHER_COLOUR = "#7A5195"


def arm_title(arm: str) -> str:
    """Return the name of an arm as figures and tables print it."""
    return _ARM_TITLES.get(arm, arm)


def order_arms(arms: Sequence[str] | Mapping[str, object]) -> list[str]:
    """Return the arms in the order of the figure, unknown ones last as they come."""
    known = [arm for arm in ARM_ORDER if arm in arms]
    return known + [arm for arm in arms if arm not in ARM_ORDER]


def arm_colour(arm: str) -> str:
    """Return the colour of an arm, one and the same for all unknown arms."""
    return ARM_COLOURS.get(arm, _OTHER_COLOUR)
