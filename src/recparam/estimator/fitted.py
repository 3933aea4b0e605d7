"""The methods of a fitted estimator: latents, bounds, predictions, matches and samples."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal, cast, overload

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from recparam import bounds
from recparam.bounds import Bound
from recparam.bounds.doubts import doubt_of_encoding
from recparam.data.contexts import contexts_of
from recparam.data.pairs import Pairs
from recparam.data.recording import Recording
from recparam.data.windows import Windowed, centred
from recparam.estimator.described import described
from recparam.estimator.encoding import encoded_pairs, network, parameters_of
from recparam.estimator.head import Head
from recparam.estimator.held_out import spread_out, strata_of
from recparam.estimator.inputs import filled, filled_pairs, recording_and_pairs, rows_of_session
from recparam.estimator.names import EncoderSpec
from recparam.estimator.settings import Settings
from recparam.estimator.uncertainty import jackknife
from recparam.model import RPM
from recparam.model.matching import Matching
from recparam.networks.spheres import unit_vectors
from recparam.priors import InfoNCEPrior, JointGaussianPrior, Prior, Side
from recparam.training.optimise import Step
from recparam.utils.checks import check_count

_SIDES = ("x", "x_prime")


class Fitted(Settings, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The half of `rp.RPMEstimator` that does not fit."""

    model_: RPM
    encoder_: nn.Module
    encoder_prime_: nn.Module
    prior_: Prior
    shape_in_: tuple[int, ...]
    shape_in_prime_: tuple[int, ...]
    session_shapes_: tuple[tuple[int, ...], ...] | None
    history_: list[Step]
    restarts_: list[dict[str, Any]]
    window_: int
    lag_: tuple[int, ...]
    validation_nats_: float
    _seed: int
    _parted: bool  # whether pairs read halves of windows
    _paired: str  # how rows were paired, for `describe`
    _lags: tuple[int, ...]  # of pairs whose x has rows before it

    @property
    def order_(self) -> int:
        """Earlier rows that the prior reads: x, and those before it, one lag apart."""
        check_is_fitted(self)
        return self.prior_.order

    @property
    def bank_size_(self) -> int:
        """Pairs in the bank that others are scored against."""
        check_is_fitted(self)
        return len(self._head.bank[0])

    @overload
    def transform(
        self,
        X: Any,
        *,
        sessions: Any = None,
        times: Any = None,
        return_std: Literal[False] = False,
        side: str = "x",
        session: int | None = None,
    ) -> Float[np.ndarray, "N D"]: ...

    @overload
    def transform(
        self,
        X: Any,
        *,
        sessions: Any = None,
        times: Any = None,
        return_std: bool,
        side: str = "x",
        session: int | None = None,
    ) -> Float[np.ndarray, "N D"] | tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N D"]]: ...

    def transform(
        self,
        X: Any,
        *,
        sessions: Any = None,
        times: Any = None,
        return_std: bool = False,
        side: str = "x",
        session: int | None = None,
    ) -> Float[np.ndarray, "N D"] | tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N D"]]:
        """The latents of rows: the mean of R(z|x), as float32.

        Args:
            X: Rows, (N, ...), of the shape that was fitted.
            sessions: As for `fit`: no window that the encoder reads reaches from one into another.
            times: As for `fit`: nor across a gap.
            return_std: Whether to return standard deviations too; of points by a jackknife (`estimator.uncertainty`).
            side: "x", or "x_prime" for rows of the second modality, whose latents are z'; without effect where x and x'
                share an encoder.
            session: The fitted session that the rows are of, where sessions have channels of their own. None: X is a
                recording of `own_channels`.

        Returns:
            Shape (N, latent_dim), or two such arrays; NaN in rows that are masked as a whole.
        """
        check_is_fitted(self)
        recording, index = self._rows(X, side, session, sessions=sessions, times=times)
        seen = np.flatnonzero(recording.usable)
        encoded = self._head.recognition(parameters_of(self.model_, recording, seen, index=index))
        found = np.full((1 + return_std, len(recording), self.latent_dim), np.nan, dtype=np.float32)
        found[0, seen] = encoded.mean
        if return_std:
            points = not encoded.variance.any()
            found[1, seen] = jackknife(self, recording, seen, index) if points else encoded.variance.sqrt()
        return (found[0], found[1]) if return_std else found[0]

    def elbo(
        self,
        X: Any,
        *,
        X_prime: Any = None,
        sessions: Any = None,
        times: Any = None,
        pairs: Pairs | None = None,
        side: Side = None,
    ) -> Bound:
        """The ELBO of the pairs of a recording against the bank of fitted rows, with what kind of bound it is.

        Args:
            X: Rows, as for `fit`.
            X_prime: As for `fit`.
            sessions: As for `fit`.
            times: As for `fit`.
            pairs: As for `fit`.
            side: None counts a pair's own latents, too, among the K of the bank. Under an InfoNCE prior that is an
                estimate of the ELBO and a lower bound on the mutual information, never above log(K + 1); under
                "joint-gaussian" a lower bound. "upper" and "lower" are the sides of `rp.RPM.elbo` with a bank of
                other data, and bound the ELBO if X was not fitted. All of this in expectation and over independent
                rows: rows of a series that follow the fitted ones closely are not. The two halves of the bank that
                "lower" takes are its earlier and its later rows (`banks.halves_in_turn`).

        Returns:
            A `Bound` in nats, averaged over pairs.
        """
        check_is_fitted(self)
        declared = self.pairs_of(X, X_prime=X_prime, sessions=sessions, times=times, pairs=pairs)
        encoded = encoded_pairs(self.model_, declared)
        doubt = doubt_of_encoding(lambda rows: encoded_pairs(self.model_, declared, rows.numpy()), encoded)
        bound = self._head.elbo(*encoded, strata=strata_of(declared), side=side).doubted(doubt)
        bounds.warn_at_ceiling(bound, rows=len(self._head.bank[0]), source="data set", stacklevel=2)
        return bound

    def score(self, X: Any, y: Any = None, *, X_prime: Any = None, sessions: Any = None, times: Any = None) -> float:
        """The ELBO of a recording in nats per pair, less its constant: `elbo` with side=None, larger is better.

        Scores of one lag and one bank_size compare priors, encoders and numbers of latents; those of different lags
        answer different questions.
        """
        return float(self.elbo(X, X_prime=X_prime, sessions=sessions, times=times))

    def predict_next(self, X: Any) -> Float[np.ndarray, "N D"]:
        """E[z'|z], the mean of the latents that the model expects of the x' of each row; shape (N, latent_dim).

        That is the row `lag_` rows later, one of several at random; with X_prime, what the same row of the other
        modality will show; with other pairs, what those declare. A prior of `order_` above one reads earlier rows, too:
        the first rows of a session, which lack them, are NaN. Of latents on circles or spheres it is the direction of
        the mean, a point on them.
        """
        check_is_fitted(self)
        self._check_one_base("predict_next")
        if self.order_ > 1:
            return self._predicted_after(X)
        encoded, head = self._encoded(X), self._head
        with torch.no_grad():
            if isinstance(head.prior, JointGaussianPrior):
                return (head.prior.correlation * head.recognition(encoded).mean).numpy()
            mean, spheres = head.model.predictive(encoded, head.bank[1]).mean(), self._specs[0].spheres
            return (unit_vectors(mean, spheres[0]) if spheres else mean).numpy()

    def next_over_bank(
        self, z: Float[np.ndarray, "A _D"]
    ) -> tuple[Float[np.ndarray, "K D"], Float[np.ndarray, "A K"]]:
        """P(z'|z) over the z' of the bank, among which R(z') is spread evenly.

        Args:
            z: Latents, shape (A, latent_dim); for a prior of `order_` p those of p rows side by side, oldest first.

        Returns:
            The candidates z', shape (K, latent_dim), and the probability of each, rows summing to one, shape (A, K).

        Raises:
            ValueError: The prior has a density of its own, which needs no candidates, or sessions have channels of
                their own.
        """
        check_is_fitted(self)
        self._check_one_base("next_over_bank")
        if not isinstance(self.prior_, InfoNCEPrior):
            raise ValueError(
                f"Expected a prior that is spread over R(z'); got {type(self.prior_).__name__}, a density of its own."
            )
        with torch.no_grad():
            prediction = self._head.model.predictive(torch.from_numpy(np.float32(z)), self._head.bank[1])
            every = torch.arange(len(prediction.candidates)).expand(len(z), -1)
            return prediction.candidates.numpy(), prediction.log_prob(every).exp().numpy()

    def match(self, X: Any, X_prime: Any) -> Matching:
        """How probably each row of X goes with each row of X_prime, row i being the partner of row i.

        See also: `rp.RPM.match`.

        Raises:
            ValueError: The prior reads several earlier rows, or the data are not those that were fitted.
        """
        check_is_fitted(self)
        if self.order_ > 1:
            raise ValueError(
                f"Expected a prior of one earlier row for match; got one of {self.order_}. Use elbo, or predict_next."
            )
        return self._head.model.match(self._encoded(X), self._encoded(X_prime, "x_prime"))

    def sample(
        self, n_samples: int = 1, *, random_state: Any = None
    ) -> tuple[Float[np.ndarray, "n _D"], Float[np.ndarray, "n D"]]:
        """Pairs of latents (z, z') drawn from the prior; R(z) and R(z') are those of the bank.

        Args:
            n_samples: Pairs.
            random_state: As the estimator's.

        Returns:
            z and z', each (n_samples, latent_dim); z of a prior of `order_` p as p latents side by side, oldest first.
        """
        check_is_fitted(self)
        self._check_one_base("sample")
        check_count("n_samples", n_samples)
        generator = torch.Generator().manual_seed(int(check_random_state(random_state).randint(np.iinfo(np.int32).max)))
        z, z_prime = self._head.sample(n_samples, generator)
        return z.numpy(), z_prime.numpy()

    def describe(self) -> str:
        """The shape of the data, encoder, prior with its equation, latents, pairs, bank and training, one per line."""
        check_is_fitted(self)
        return described(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        tags.input_tags.three_d_array = True
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.latent_dim

    def _restore(
        self, model: Any, bank: tuple[Tensor, ...], strata: Tensor | None, *, names: Sequence[str] | None
    ) -> None:
        self._set_model(model, bank, strata)
        self.n_features_in_ = self.shape_in_[0]
        if names is not None:
            self.feature_names_in_ = np.asarray(names, dtype=object)

    def _set_model(self, model: Any, bank: tuple[Tensor, ...], strata: Tensor | None) -> None:
        self.model_ = model.cpu().eval()
        self.encoder_, self.prior_ = network(model), model.prior
        if not model.shared:
            self.encoder_prime_ = network(model, 1)
        self._head = Head(model, (bank[0].cpu(), bank[1].cpu()), strata=strata)

    def _set_encoders(
        self, specs: Sequence[EncoderSpec], shapes: Sequence[tuple[int, ...]], *, per_session: bool
    ) -> None:
        self._specs, self._shapes = list(specs), list(shapes)
        self.session_shapes_ = tuple(shapes) if per_session else None
        self.shape_in_ = (1 + max(map(math.prod, shapes)),) if per_session else self._shapes[0]
        if len(shapes) > 1 and not per_session:
            self.shape_in_prime_ = self._shapes[1]

    def thinned(self, size: int) -> Fitted:
        """The same against a bank of so many of its pairs, evenly spaced; itself where there are no more."""
        if size >= self.bank_size_:
            return self
        keep = torch.from_numpy(spread_out(self.bank_size_, size))
        found, (x, x_prime), strata = copy.copy(self), self._head.bank, self._head.strata
        found._head = Head(self.model_, (x[keep], x_prime[keep]), strata=None if strata is None else strata[keep])
        return found

    def _check_one_base(self, name: str) -> None:
        if self.session_shapes_ is not None:
            raise ValueError(
                f"Expected sessions that share their columns for {name}; got a model of sessions with channels of "
                "their own, each of which has its R(z'). Use transform, match or elbo."
            )

    def pairs_of(
        self, X: Any, *, X_prime: Any = None, sessions: Any = None, times: Any = None, pairs: Pairs | None = None
    ) -> Pairs:
        """The pairs of data, made as those that were fitted; arguments as for `fit`."""
        check_is_fitted(self)
        found = self._recording_and_pairs(X, X_prime, sessions, times, pairs, order=self.order_, reset=False)[1]
        return cast(Pairs, found)

    def _recording_and_pairs(
        self, X: Any, X_prime: Any, sessions: Any, times: Any, pairs: Pairs | None, *, order: int, reset: bool
    ) -> tuple[Recording, Pairs | None]:
        if not reset and X_prime is None and pairs is None and not self.model_.shared:
            raise ValueError("Expected X_prime=, the rows of the second modality, as for fit; got none.")
        recording, declared = recording_and_pairs(
            X,
            X_prime,
            sessions=sessions,
            times=times,
            pairs=pairs,
            lag=None if reset else self.lag_,
            window=(self.window or 1) if reset else self.window_,
            order=order,
            parted=not reset and self._parted,
        )
        self._check_rows(X, recording, reset=reset)
        if declared is None:
            return recording, None
        if not reset and self.model_.shared != (declared.recording_prime is None):
            fitted, got = ("one recording", "two") if self.model_.shared else ("two recordings", "one")
            raise ValueError(f"Expected pairs of {fitted}, as fitted; got pairs of {got}. Fit another estimator.")
        if not reset and declared.recording_prime is not None:
            self._check_rows(None, declared.recording_prime, reset=False, side="x_prime")
        return recording, declared if reset else filled_pairs(self.model_, declared)

    def _predicted_after(self, X: Any) -> Float[np.ndarray, "N D"]:
        """`predict_next` under a prior that reads several earlier rows."""
        lag, *others = self._lags
        if others:
            raise ValueError(
                f"Expected pairs of one lag for predict_next under a prior of {self.order_} earlier rows; got a model "
                f"of lags {self._lags}. Fit it with one lag."
            )
        z = torch.from_numpy(self.transform(X))
        rows = contexts_of(Recording.of(X), lag=lag, order=self.order_)
        found = torch.full_like(z, torch.nan)
        if len(rows):
            with torch.no_grad():
                prediction = self._head.model.predictive(z[rows].flatten(1), self._head.bank[1])
                found[rows[:, -1]] = prediction.mean()
        return found.numpy()

    def _encoded(self, X: Any, side: str = "x") -> Tensor:
        """The recognition parameters of single rows."""
        recording, index = self._rows(X, side)
        return parameters_of(self.model_, recording, index=index)

    def _rows(
        self, X: Any, side: str, session: int | None = None, *, sessions: Any = None, times: Any = None
    ) -> tuple[Recording, int]:
        """Single rows, as the encoder reads them, and the index of their observation."""
        if side not in _SIDES:
            raise ValueError(f"Expected side='x' or 'x_prime'; got {side!r}.")
        recording, index = Recording.of(X, sessions=sessions, times=times), _SIDES.index(side)
        if session is not None:
            X, recording = None, rows_of_session(recording, session, shapes=self.session_shapes_)
        self._check_rows(X, recording, reset=False, side=side)
        if not recording.usable.any():
            raise ValueError(f"Expected rows that were observed; got a mask of all {len(recording)} rows. Unmask some.")
        recording = filled(self.model_, recording, index=index)
        return centred(recording, 1 if isinstance(recording, Windowed) else self.window_), index

    def _check_rows(self, X: Any, recording: Recording, *, reset: bool, side: str = "x") -> None:
        if not reset and recording.row_shapes != self.session_shapes_:
            raise ValueError(
                f"Expected rows of {'one shape' if self.session_shapes_ is None else 'own_channels, or session='}, as "
                f"fitted; got rows of {'one shape' if recording.row_shapes is None else 'own channels'}."
            )
        if side == "x" or self.model_.shared:
            # For scikit-learn's own messages: an array that takes no memory, or a data frame with names that differ.
            names = list(getattr(X, "columns", ()))
            named = names and len(set(names)) == len(names)
            seen: Any = X if named else np.broadcast_to(np.float32(0), recording.shape)
            validate_data(self, seen, skip_check_array=True, reset=reset)
        if not reset:
            shape = self.shape_in_ if self.model_.shared or side == "x" else self.shape_in_prime_
            if recording.shape[1:] != shape:
                of = "" if self.model_.shared else f" of {side}"
                raise ValueError(f"Expected rows{of} of shape {shape}, as fitted; got {recording.shape[1:]}.")
