"""The parameters of the estimator, written once: for `rp.RPMEstimator`, for run.yaml and for `recparam fit`."""

from dataclasses import dataclass
from typing import Literal

# No import of torch: the command line prints its help from this class.


@dataclass(kw_only=True, eq=False, repr=False)
class Settings:
    """The parameters of `rp.RPMEstimator` that a file can hold.

    Args:
        prior: How x' follows x: gaussian (z' is near z), linear, cosine, circle (z is the cosine and sine of an angle),
            torus (of several angles), sphere (z is a point on a sphere), velocity (latents keep their velocity), ar2 (a
            learned linear AR(2)) or joint-gaussian.
        encoder: auto, which is mlp for rows that are vectors, smoothed for windows of rows, and for frames conv,
            centre-of-mass or foreground (a still camera), whichever predicts more, with one start conv; one of these
            names; or temporal.
        encoder_prime: Encoder of x' where x' is of a second modality; unused elsewhere.
        latent_dim: Number of latents.
        window: Rows of the window around each row that the encoder reads, an odd number; 1: the row alone. In a fit x
            is read from the past half of its window and x' from the future half of its own. None: of vectors 1, 3, 5,
            11 or 21, whichever predicts most; of others 1.
        lag: Rows from x to x'; several are pooled. None: 1, 2 and 3, or for single rows 5, 10 and 20, whichever
            predicts more. 1 under a prior that reads several earlier rows.
        max_steps: Steps of the optimiser, at most. None: 1080, and 480 for frames. Training stops early where the
            held-out bound no longer rises. Choices and starts are compared after a part of them.
        batch_size: Pairs in a batch, whose other rows are the negatives. None: 512, and 128 for frames.
        learning_rate: Of Adam, for the first half of the steps; it falls to zero over the second. None: 0.003, and 0.02
            for centre-of-mass.
        dropout: Dropout on the inputs of encoders given by name, but for places: a share from 0 to below 1.
            Restarts take several in turn, and the held-out bound chooses; a single start takes the first. None: 0.3
            and 0 for vectors (0 first for single ones where nothing else is chosen); 0.3 for frames.
        restarts: Starts from other weights. They are halved by the held-out bound after an eighth and a fourth of the
            steps, and the best is trained to the end. Where encoders of frames are compared, all but one are starts of
            centre-of-mass. 1 is the quick way: nothing is chosen.
        validation_fraction: Part of each session, at its end, that is held out, from 0 to below 1. It chooses among
            restarts and among states of the weights.
        bank_size: Training pairs that are kept to score others against. The logarithm of their number is the most that
            a score can reach, in nats.
        random_state: Seed; the same one gives the same weights. None: another one every time.
        accelerator: auto, cpu or gpu, as in Lightning.
        devices: 1, auto, or the index of one device in a list, as in Lightning.
        precision: Of the training steps: 32-true, bf16-mixed or, on a GPU, 16-mixed, as in Lightning. Scores are
            computed in 32 bits.
    """

    prior: str = "gaussian"
    encoder: str = "auto"
    encoder_prime: str = "auto"
    latent_dim: int = 2
    window: int | None = None
    lag: int | tuple[int, ...] | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    dropout: float | tuple[float, ...] | None = None
    restarts: int = 4
    validation_fraction: float = 0.2
    bank_size: int = 2048
    random_state: int | None = None
    accelerator: str = "auto"
    devices: int | Literal["auto"] | tuple[int, ...] = 1
    precision: str = "32-true"
