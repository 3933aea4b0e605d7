"""The estimator: a recognition-parameterised model with scikit-learn's manners."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from recparam import bounds
from recparam.bounds import Bound
from recparam.data.pairs import Pairs, consecutive
from recparam.data.recording import Recording
from recparam.estimator import saved
from recparam.estimator.alarms import alarms, warn
from recparam.estimator.choices import choose_encoder, describe_prior, make_model, make_prior
from recparam.estimator.fitting import Plan, climb, device_of, split_off
from recparam.estimator.scoring import Head, parameters_of, spread_out
from recparam.matching import Matching
from recparam.ops.checks import check_count, check_positive, is_finite_number
from recparam.priors import JointGaussianPrior, Side

_STEPS, _BATCH = 1500, 512
_STEPS_OF_IMAGES, _BATCH_OF_IMAGES = 500, 128


class RPMEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Interpretable latents of a recording, and held-out numbers in nats, with scikit-learn's conventions.

    Rows of X that follow each other are the pairs (x, x'); the encoder is fitted so that the prior P(z'|z) explains
    how one follows the other, by the ELBO of a recognition-parameterised model. No label is needed, and none is used.

    Args:
        prior: What is assumed of the latents: "gaussian" (z' is near z), "linear", "cosine", "joint-gaussian", or a
            recparam prior. `describe()` gives its equation.
        encoder: "auto" ("mlp" for rows that are vectors, "conv" for frames), "centre-of-mass", or a torch module that
            maps (B, ...) to (B, latent_dim), or (B, 2 latent_dim) for a prior that needs densities. A module is copied.
        latent_dim: Number of latents.
        lag: Rows from x to x', or several. Other pairs are declared with `fit(pairs=...)`.
        max_steps: Steps of training; None: 1500, and 500 for frames. It stops where the held-out bound has stopped
            rising.
        batch_size: Pairs in a batch, whose other rows are the negatives; None: 512, and 128 for frames.
        learning_rate: Of Adam, for the first half of the steps; it falls to nought over the second.
        dropout: Share of the entries of a row that the short-named MLP is not shown in training, between 0 and 1.
        restarts: Starts from other weights. Each takes a tenth of the steps, and the one with the best held-out bound
            goes on; labels have no part in it.
        validation_fraction: Part of the rows of each session, at its end, that is held out to choose among starts and
            states.
        bank_size: Pairs of the fitted rows kept to score others against, so that a score does not depend on how many
            rows are scored. Its logarithm is what a score can reach.
        random_state: A seed, for the same weights every time, a numpy RandomState, or None.
        accelerator: "auto", "cpu" or "gpu", as Lightning's.
        progress: Whether to print a line for each look at the held-out rows, to standard error.

    Attributes:
        model_: The fitted `rp.RPM`.
        encoder_: Its network.
        prior_: Its prior.
        history_: One dictionary per look at the held-out rows: step, bound_nats, ceiling_nats, validation_nats.
        restarts_: One dictionary per start, when one was chosen: seed, steps, validation_nats, chosen.
        validation_nats_: The held-out bound of the state that was kept.
        n_features_in_: As scikit-learn's.
        shape_in_: Shape of a row.

    Example:
        >>> import numpy as np
        >>> import recparam as rp
        >>> place = np.cumsum(np.random.default_rng(0).normal(size=(300, 2)), axis=0)
        >>> seen = np.tanh(place @ np.random.default_rng(1).normal(size=(2, 6)) / 9)
        >>> est = rp.RPMEstimator(max_steps=20, random_state=0).fit(seen[:200])
        >>> est.transform(seen[200:]).shape
        (100, 2)
    """

    def __init__(
        self,
        *,  # of any type: scikit-learn's conventions leave the checks to fit
        prior: Any = "gaussian",
        encoder: Any = "auto",
        latent_dim: Any = 2,
        lag: Any = 1,
        max_steps: Any = None,
        batch_size: Any = None,
        learning_rate: Any = 3e-3,
        dropout: Any = 0.0,
        restarts: Any = 6,
        validation_fraction: Any = 0.2,
        bank_size: Any = 2048,
        random_state: Any = None,
        accelerator: Any = "auto",
        progress: Any = False,
    ) -> None:
        self.prior = prior
        self.encoder = encoder
        self.latent_dim = latent_dim
        self.lag = lag
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.dropout = dropout
        self.restarts = restarts
        self.validation_fraction = validation_fraction
        self.bank_size = bank_size
        self.random_state = random_state
        self.accelerator = accelerator
        self.progress = progress

    def fit(
        self, X: Any, y: Any = None, *, sessions: Any = None, times: Any = None, pairs: Pairs | None = None
    ) -> RPMEstimator:
        """Fit encoder and prior.

        Args:
            X: Rows in the order in which they were observed, (N, ...): an array (memory-mapped ones stay on disk), a
                tensor, a data frame, a `Recording`, or a list of arrays, one per session.
            y: Not used, as in every transformer of scikit-learn, and warned of: nothing is guessed from labels. Declare
                what pairs should be conditioned on with `pairs=`.
            sessions: The session of each row, (N,); no pair crosses from one into another.
            times: When each row was observed, (N,), in seconds; no pair crosses a gap.
            pairs: Which rows are pairs, of `recparam.data.pairs`, in place of `lag`; X is then their recording.

        Returns:
            The estimator.

        Raises:
            ValueError: Data or settings that cannot be fitted; the text says which, and what helps.
        """
        self._check_settings()
        recording, declared = self._data(X, sessions, times, pairs, reset=True)
        self._warn_of_labels(y)
        shape, dim = recording.shape[1:], self.latent_dim
        constant = recording.constant_columns()
        if constant:
            raise ValueError(
                f"Expected columns that change; got constant ones: {', '.join(constant[:8])}"
                f"{f' and {len(constant) - 8} more' if len(constant) > 8 else ''}. Drop them."
            )
        prior = make_prior(self.prior, dim)
        spec = choose_encoder(
            self.encoder, shape=shape, latent_dim=dim, density=prior.needs_density, dropout=self.dropout
        )
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        fitted, held_out = split_off(declared, self.validation_fraction)
        models = []
        for restart in range(self.restarts):
            with torch.random.fork_rng([]):
                torch.manual_seed(_mixed(seed, restart))
                models.append(
                    make_model(spec, self.encoder, prior, recording=recording, rows=fitted.first, restart=restart)
                )
        outputs = dim * (2 if prior.needs_density else 1)
        got = tuple(parameters_of(models[0], recording, fitted.first[:2]).shape)
        if got != (2, outputs):
            raise ValueError(
                f"Expected an encoder with {outputs} outputs for latent_dim={dim}"
                f"{' (means and log-variances)' if outputs > dim else ''}; got outputs of shape {got} for 2 rows."
            )
        self._spec, self.shape_in_, self._seed = spec, shape, seed
        return self._climbed(models, fitted, held_out)

    def partial_fit(
        self, X: Any, y: Any = None, *, sessions: Any = None, times: Any = None, pairs: Pairs | None = None
    ) -> RPMEstimator:
        """Go on from the present weights with new data, which the bank is then taken from; the first call is `fit`.

        Arguments and errors as in `fit`, but for constant columns, which a short stretch may have.
        """
        if not hasattr(self, "model_"):
            return self.fit(X, y, sessions=sessions, times=times, pairs=pairs)
        self._check_settings()
        _, declared = self._data(X, sessions, times, pairs, reset=False)
        self._warn_of_labels(y)
        self._seed = _mixed(self._seed, 1)
        return self._climbed([self.model_], *split_off(declared, self.validation_fraction))

    def transform(
        self, X: Any, *, return_std: bool = False
    ) -> Float[np.ndarray, "N D"] | tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N D"]]:
        """The latents of rows: the mean of R(z|x), as float32.

        Args:
            X: Rows, (N, ...), of the shape that was fitted.
            return_std: Whether to return their standard deviation too; nought for latents that are points.

        Returns:
            Shape (N, latent_dim), or two such arrays.
        """
        check_is_fitted(self)
        recording, _ = self._data(X, None, None, None, reset=False, paired=False)
        encoded = self._head.recognition(parameters_of(self.model_, recording))
        mean = encoded.mean.numpy()
        return (mean, encoded.variance.sqrt().numpy()) if return_std else mean

    def elbo(
        self, X: Any, *, sessions: Any = None, times: Any = None, pairs: Pairs | None = None, side: Side = None
    ) -> Bound:
        """The ELBO of the pairs of a recording against the bank of fitted rows, with what kind of bound it is.

        Args:
            X: Rows, as for `fit`.
            sessions: As for `fit`.
            times: As for `fit`.
            pairs: As for `fit`.
            side: None counts a pair's own latents beside the K of the bank. Under an InfoNCE prior that is an estimate
                of the ELBO and a lower bound on the mutual information, never above log(K + 1); under
                "joint-gaussian" a lower bound. "upper" and "lower" are the sides of `rp.RPM.elbo` with a bank of
                other data, and bound the ELBO if X was not fitted. All of this in expectation and over independent
                rows: rows of a series that follow the fitted ones closely are not.

        Returns:
            A `Bound` in nats, averaged over pairs.
        """
        check_is_fitted(self)
        recording, declared = self._data(X, sessions, times, pairs, reset=False)
        encoded = parameters_of(self.model_, recording)
        bound = self._head.elbo(encoded[declared.first], encoded[declared.second], side=side)
        bounds.warn_at_ceiling(bound, rows=len(self._head.bank[0]), source="data set", stacklevel=2)
        return bound

    def score(self, X: Any, y: Any = None, *, sessions: Any = None, times: Any = None) -> float:
        """The ELBO of a recording in nats per pair, less its constant: `elbo` with side=None, larger is better.

        Scores of one lag and one bank_size compare priors, encoders and numbers of latents; those of different lags
        answer different questions.
        """
        return float(self.elbo(X, sessions=sessions, times=times))

    def predict_next(self, X: Any) -> Float[np.ndarray, "N D"]:
        """E[z'|z], the mean of the latents that the model expects `lag` rows after each row; shape (N, latent_dim)."""
        check_is_fitted(self)
        recording, _ = self._data(X, None, None, None, reset=False, paired=False)
        encoded, head = parameters_of(self.model_, recording), self._head
        with torch.no_grad():
            if isinstance(head.prior, JointGaussianPrior):
                return (head.prior.correlation * head.recognition(encoded).mean).numpy()
            return head.model.predictive(encoded, head.bank[1]).mean().numpy()

    def match(self, X: Any, X_prime: Any) -> Matching:
        """How probably each row of X goes with each row of X_prime, row i being the partner of row i.

        See also: `rp.RPM.match`.
        """
        check_is_fitted(self)
        sides = [self._data(side, None, None, None, reset=False, paired=False)[0] for side in (X, X_prime)]
        return self._head.model.match(*(parameters_of(self.model_, side) for side in sides))

    def sample(
        self, n_samples: int = 1, *, random_state: Any = None
    ) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, "n D"]]:
        """Pairs of latents (z, z') drawn from the prior; R(z) and R(z') are those of the bank.

        Args:
            n_samples: Pairs.
            random_state: As the estimator's.

        Returns:
            z and z', each (n_samples, latent_dim).
        """
        check_is_fitted(self)
        check_count("n_samples", n_samples)
        generator = torch.Generator().manual_seed(int(check_random_state(random_state).randint(np.iinfo(np.int32).max)))
        z, z_prime = self._head.sample(n_samples, generator)
        return z.numpy(), z_prime.numpy()

    def describe(self) -> str:
        """What was chosen: data, encoder, prior with its equation, bank and training, one per line."""
        check_is_fitted(self)
        last = self.history_[-1]
        return "\n".join(
            (
                f"rows     {' x '.join(map(str, self.shape_in_))}",
                f"encoder  {self._spec.text}",
                f"prior    {describe_prior(self.prior, self.prior_)}",
                f"latents  {self.latent_dim}, {'Gaussian' if self.prior_.needs_density else 'points'}",
                f"pairs    lag {self.lag}, bank of {len(self._head.bank[0])}",
                f"training {last['step']} steps, seed {self._seed}, best of {len(self.restarts_)} start(s), "
                f"held-out bound {self.validation_nats_:.3f} nats",
            )
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fitted model as a folder: config.json, to read, and weights.safetensors; whole or not at all.

        Args:
            folder: Is created. One that holds a saved model is replaced, whole.

        Raises:
            FileExistsError: The folder holds something else.
            OSError: It cannot be written; a former one is still there.
        """
        check_is_fitted(self)
        saved.save(self, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, encoder: Any = None, prior: Any = None) -> RPMEstimator:
        """Read a model that `save` wrote; nothing in the files is run.

        Args:
            folder: Of the model.
            encoder: A module like the one that was given to the estimator, or its class if that needs no arguments,
                where it was not one of the library's short names; its weights are the saved ones.
            prior: Likewise for a prior that was given as an object.

        Raises:
            FileNotFoundError: No such folder, or no model in it.
            StorageError: A file is damaged, changed, or of a newer version.
            ValueError: A custom encoder or prior is needed, or does not fit the weights.
        """
        return saved.load(cls, folder, encoder=encoder, prior=prior)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        tags.input_tags.three_d_array = True
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.latent_dim

    def _climbed(self, models: list[Any], fitted: Pairs, held_out: Pairs) -> RPMEstimator:
        images = len(self.shape_in_) > 1
        bank = spread_out(len(fitted), self.bank_size)
        plan = Plan(
            steps=(_STEPS_OF_IMAGES if images else _STEPS) if self.max_steps is None else self.max_steps,
            batch_size=(_BATCH_OF_IMAGES if images else _BATCH) if self.batch_size is None else self.batch_size,
            lr=self.learning_rate,
            seed=self._seed,
            progress=self.progress,
        )
        best, self.restarts_ = climb(
            models, fitted, held_out, plan=plan, bank_rows=bank, device=device_of(self.accelerator)
        )
        self.history_, self.validation_nats_ = best.history, float(best.best)
        sides = (fitted.first, fitted.second)
        self._set_model(best.model, tuple(parameters_of(best.model, fitted.recording, side[bank]) for side in sides))
        z = self._head.recognition(parameters_of(best.model, held_out.recording, np.unique(held_out.first))).mean
        warn(alarms(z, held_out=best.best, step=best.best_step, history=best.history), stacklevel=3)
        return self

    def _restore(self, model: Any, bank: tuple[Tensor, ...], *, names: Sequence[str] | None) -> None:
        self._set_model(model, bank)
        self.n_features_in_ = self.shape_in_[0]
        if names is not None:
            self.feature_names_in_ = np.asarray(names, dtype=object)

    def _set_model(self, model: Any, bank: tuple[Tensor, ...]) -> None:
        self.model_ = model.cpu().eval()
        self.encoder_, self.prior_ = model.recognition[0].net, model.prior
        self._head = Head(model, (bank[0].cpu(), bank[1].cpu()))

    def _data(
        self, X: Any, sessions: Any, times: Any, pairs: Pairs | None, *, reset: bool, paired: bool = True
    ) -> tuple[Recording, Any]:
        if pairs is not None and not isinstance(pairs, Pairs):
            raise ValueError(f"Expected pairs of recparam.data.pairs, such as consecutive(...); got {pairs!r}.")
        recording = Recording.of(X, sessions=sessions, times=times)
        if pairs is not None and pairs.recording.shape != recording.shape:
            raise ValueError(
                f"Expected X to be the recording of pairs, of shape {pairs.recording.shape}; got {recording.shape}."
            )
        # For scikit-learn's own words: a stand-in that takes no memory, or the data frame with its names.
        seen: Any = X if hasattr(X, "columns") else np.broadcast_to(np.float32(0), recording.shape)
        validate_data(self, seen, skip_check_array=True, reset=reset)
        if not reset and recording.shape[1:] != self.shape_in_:
            raise ValueError(f"Expected rows of shape {self.shape_in_}, as fitted; got {recording.shape[1:]}.")
        if not paired:
            return recording, None
        return recording, consecutive(recording, lag=self.lag) if pairs is None else pairs

    def _check_settings(self) -> None:
        for name in ("latent_dim", "restarts", "bank_size"):
            check_count(name, getattr(self, name))
        for name, least in (("max_steps", 1), ("batch_size", 2)):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least=least)
        check_positive("learning_rate", self.learning_rate)
        for name in ("validation_fraction", "dropout"):
            value = getattr(self, name)
            if not is_finite_number(value) or not 0 <= value < 1:
                raise ValueError(f"Expected {name} between 0 and 1; got {value!r}.")
        if isinstance(self.lag, str) or not isinstance(self.lag, Integral | Sequence | np.ndarray):
            raise ValueError(f"Expected lag as a whole number of rows, or several; got {self.lag!r}.")
        device_of(self.accelerator)

    def _warn_of_labels(self, y: Any) -> None:
        if y is not None:
            message = (
                "y is not used: nothing is guessed from labels. To condition pairs on a variable, declare it: "
                "fit(X, pairs=recparam.data.pairs.nearest(recording, variable))."
            )
            warn([message], stacklevel=3)


def _mixed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)
