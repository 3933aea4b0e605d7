"""What the moving-balls experiment runs: arms, presets, and the checks made before any work."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

from recparam.experiments.outcome import check_least, check_names, seeds_from

Optimiser = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine"]

# Order is the order of the bars in Figure 1C.
ARMS = (
    "supervised",
    "gaussian",
    "linear",
    "recipe",
    "steps",
    "velocity",
    "velocity-steps",
    "untrained",
    "constant",
)
SHOWN_ARMS = ("supervised", "gaussian", "linear", "recipe", "steps", "untrained", "constant")
"""The arms of the paper, `recipe` and the step length, with the controls."""
RICHER_ARMS = ("steps", "velocity", "velocity-steps")
"""Priors richer than the paper's, trained from several starts of which the evidence chooses."""
FEWEST_PAIRS = 10
"""In a batch that knows the total correlation of three balls to half a nat (`rp.elbo_of_groups`)."""
TRAINED_ARMS = ("supervised", "gaussian", "linear", "recipe", *RICHER_ARMS)
VIDEOS = ("black", "clutter")

PAPER_SIZE = 256
"""Latents and errors are also expressed in pixels of a frame of this width, the paper's."""

TEST_SEED_OFFSET = 10_000
"""The fresh video of seed k is generated with seed k + this."""

CHOOSING_SEED_OFFSET = 20_000
"""The video on which the evidence chooses among the starts of seed k is generated with seed k + this."""

COARSE_SIZE = 64
"""The starts of `RICHER_ARMS` are trained on frames shrunk to this width, where the width is a multiple of it."""


@dataclass(frozen=True)
class Training:
    """How one arm is trained; a lengthscale of None is set from the data by the median heuristic."""

    optimiser: Optimiser = "sgd"
    lr: float = 0.005
    momentum: float = 0.0
    lengthscale: float | None = 1.0
    schedule: Schedule = "constant"
    gradient_clip: float | None = None


PAPER_TRAINING = Training()
"""Appendix D: plain SGD, learning rate 0.005; the lengthscale starts at one pixel of the paper's frame."""

RECIPE = Training(optimiser="sgd", lr=0.02, momentum=0.9, lengthscale=None)
"""The settings that the library recommends, the same for every video; chosen by the held-out bound alone."""

RICHER_TRAINING = Training(
    optimiser="sgd", lr=0.02, momentum=0.9, lengthscale=None, schedule="cosine", gradient_clip=3.0
)
"""As `RECIPE`, but for a rate that falls to zero, and clipped: a step length has no gradient bound near zero width."""


def training_of(arm: str) -> Training:
    """Return the training settings of an arm: the paper's but for `recipe` and the richer priors."""
    return RICHER_TRAINING if arm in RICHER_ARMS else RECIPE if arm == "recipe" else PAPER_TRAINING


def training_facts(arm: str) -> dict[str, Any]:
    """Everything that decides how an arm is trained, as it is written."""
    facts = asdict(training_of(arm))
    if arm not in RICHER_ARMS:
        return facts
    return facts | {"coarse_size": COARSE_SIZE, "objective": "elbo_of_groups, a total correlation per step"}


@dataclass(frozen=True)
class Run:
    """One unit of work: a video, a seed and an arm."""

    video: str
    seed: int
    arm: str

    @property
    def folder(self) -> str:
        """Folder of the run, relative to the experiment's output folder."""
        return f"runs/{self.video}/seed{self.seed}/{self.arm}"

    def __str__(self) -> str:
        return f"{self.video} seed {self.seed} {self.arm}"


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of the experiment.

    Args:
        preset: name of the preset the settings started from.
        size: width and height of a frame, in pixels.
        diameter: diameter of a ball, in pixels; also how far a ball moves per frame.
        frames: number of frames of each video.
        epochs: passes over the training video.
        batch_size: number of pairs of consecutive frames per step; the others are the negatives.
        videos: backgrounds, of `VIDEOS`.
        arms: of `ARMS`.
        seeds: one training run per seed.
        starts: initial encoders from which an arm of `RICHER_ARMS` is trained, of which the evidence chooses one.

    Raises:
        ValueError: if a value cannot be run, before anything is written.
    """

    preset: str = "quick"
    size: int = 64
    diameter: float = 8.0
    frames: int = 900
    epochs: int = 30
    batch_size: int = 30
    videos: tuple[str, ...] = VIDEOS
    arms: tuple[str, ...] = ARMS
    seeds: tuple[int, ...] = (0,)
    starts: int = 2

    def __post_init__(self) -> None:
        check_least(self, dict.fromkeys(("size", "diameter", "epochs", "starts"), 1))
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size must be at least 2; got {self.batch_size}. "
                "With a batch of one pair there is no negative to contrast with."
            )
        of_balls = [arm for arm in self.arms if arm in ("steps", "velocity-steps")]
        if of_balls and self.batch_size < FEWEST_PAIRS:
            raise ValueError(
                f"Expected batch_size of at least {FEWEST_PAIRS} with the arms {', '.join(of_balls)}; got "
                f"{self.batch_size}. A smaller batch does not know whether two maps follow one ball."
            )
        # Seven coordinates of the linear decoder, intercept included, need more frames than that.
        least = max(16, self.batch_size + 1)
        if self.frames < least:
            raise ValueError(
                f"frames must be at least {least} (one batch of {self.batch_size} pairs, and enough to fit "
                f"the linear decoder); got {self.frames}. Ask for more frames."
            )
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"seeds must be one or more non-negative numbers; got {list(self.seeds)}.")
        if max(self.seeds) - min(self.seeds) >= TEST_SEED_OFFSET:
            raise ValueError(
                f"seeds must span less than {TEST_SEED_OFFSET}, or a training video would be another seed's "
                f"fresh video; got {min(self.seeds)} to {max(self.seeds)}."
            )
        check_names("arms", self.arms, ARMS)
        check_names("videos", self.videos, VIDEOS)

    @property
    def label(self) -> str:
        """Say in words which version of the experiment this is."""
        facts = f"{self.size}x{self.size} px, balls of {self.diameter:g} px, {self.frames} frames, {self.epochs} epochs"
        full = (self.size, self.diameter, self.frames, self.epochs, self.batch_size) == (
            PAPER_SIZE,
            32,
            900,
            30,
            30,
        )
        return f"paper's size ({facts})" if full else f"small version ({facts})"

    @property
    def scale(self) -> float:
        """Pixels of the paper's frame per pixel of this one."""
        return PAPER_SIZE / self.size

    def starts_of(self, arm: str) -> int:
        """From how many initial encoders an arm is trained."""
        return self.starts if arm in RICHER_ARMS else 1

    @property
    def shrinking(self) -> int:
        """How many pixels of a frame, in each direction, are one pixel of the frames that starts are trained on."""
        return self.size // COARSE_SIZE if self.size % COARSE_SIZE == 0 else 1

    @property
    def coarse(self) -> "Settings":
        """The same experiment on the frames that starts are trained on."""
        return replace(self, size=self.size // self.shrinking, diameter=self.diameter / self.shrinking)

    def further_epochs_of(self, arm: str) -> int:
        """Passes on whole frames that follow those of the starts."""
        return -(-self.epochs // 2) if arm in RICHER_ARMS and self.shrinking > 1 else 0

    def epochs_of(self, arm: str) -> int:
        """Passes over the training video that an arm takes: all of its starts, and the best on whole frames."""
        return self.epochs * self.starts_of(arm) + self.further_epochs_of(arm)

    def work_of(self, arm: str) -> float:
        """`epochs_of` in passes over whole frames."""
        per_epoch = self.shrinking**-2 if arm in RICHER_ARMS else 1.0
        return self.epochs * self.starts_of(arm) * per_epoch + self.further_epochs_of(arm)

    def runs(self) -> list[Run]:
        """List all runs, the long ones first so that processes finish together."""
        arms = sorted(self.arms, key=lambda arm: (arm not in TRAINED_ARMS, -self.work_of(arm), ARMS.index(arm)))
        return [Run(video, seed, arm) for seed, arm, video in product(self.seeds, arms, self.videos)]

    def identity(self) -> dict[str, Any]:
        """Return what must agree for two commands to share an output folder.

        Videos, arms and seeds are left out: a folder may grow by further runs.
        """
        return {
            "experiment": "moving-balls",
            "size": self.size,
            "diameter": self.diameter,
            "frames": self.frames,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "test_seed_offset": TEST_SEED_OFFSET,
            "paper_training": asdict(PAPER_TRAINING),
            "recipe": asdict(RECIPE),
            "richer_training": training_facts(RICHER_ARMS[0]),
            "choosing_seed_offset": CHOOSING_SEED_OFFSET,
            "starts": self.starts,
        }


_PRIORS = ("supervised", "gaussian", "linear", "recipe", *RICHER_ARMS, "untrained")
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"size": 128, "diameter": 16.0, "frames": 900, "epochs": 20, "arms": SHOWN_ARMS},
    "priors": {"size": 64, "diameter": 8.0, "frames": 900, "epochs": 30, "arms": _PRIORS},
    "paper": {"size": PAPER_SIZE, "diameter": 32.0, "frames": 900, "epochs": 30, "arms": SHOWN_ARMS},
}
"""`quick`: half the paper's size, in minutes. `priors`: the richer priors, a quarter. `paper`: the paper's size."""


def make_settings(
    preset: str = "quick",
    *,
    size: int | None = None,
    diameter: float | None = None,
    frames: int | None = None,
    epochs: int | None = None,
    batch_size: int = 30,
    videos: Sequence[str] = VIDEOS,
    arms: Sequence[str] | None = None,
    seeds: int = 1,
    seed: int = 0,
    starts: int = 2,
) -> Settings:
    """Build the settings of a preset, with arguments replacing the preset's values.

    Args:
        preset: of `PRESETS`.
        size: frame width in pixels; without a diameter, the balls keep the paper's proportion, size / 8.
        diameter: ball diameter in pixels.
        frames: frames per video.
        epochs: passes over the training video.
        batch_size: pairs per step.
        videos: backgrounds.
        arms: arms; by default the preset's.
        seeds: number of seeds.
        seed: the first seed; the others follow it.
        starts: of the arms with richer priors.

    Raises:
        ValueError: naming the value that cannot be run.
    """
    check_names("preset", (preset,), tuple(PRESETS))
    wanted = seeds_from(seed, seeds)
    values = dict(PRESETS[preset])
    if size is not None:
        values["size"] = size
        values["diameter"] = max(2.0, size / 8)
    if arms is not None:
        values["arms"] = tuple(dict.fromkeys(arms))
    replacements = {"diameter": diameter, "frames": frames, "epochs": epochs}
    values.update({name: value for name, value in replacements.items() if value is not None})
    return Settings(
        preset=preset,
        batch_size=batch_size,
        videos=tuple(dict.fromkeys(videos)),
        seeds=wanted,
        starts=starts,
        **values,
    )
