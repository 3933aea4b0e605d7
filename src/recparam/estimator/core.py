"""The estimator: a recognition-parameterised model with scikit-learn's conventions."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from recparam.data.contexts import lags_of
from recparam.data.pairs import Pairs
from recparam.estimator import saved
from recparam.estimator.alarms import alarms, warn
from recparam.estimator.candidates import Candidate, candidates
from recparam.estimator.choices import Choice
from recparam.estimator.device import device_of
from recparam.estimator.encoding import encoded_pairs, parameters_of
from recparam.estimator.fitted import Fitted
from recparam.estimator.held_out import spread_pairs, strata_of
from recparam.estimator.inputs import check_settings, check_varies, filled, paired, split_off, warn_of_labels
from recparam.estimator.names import make_prior
from recparam.estimator.predicted import Targets
from recparam.estimator.resuming import Checkpoint, facts_of
from recparam.estimator.settings import Settings
from recparam.estimator.starts import EARLY, LATE, Plan, Search
from recparam.utils.seeds import mixed

STEPS, _BATCH = 1080, 512
STEPS_OF_IMAGES, _BATCH_OF_IMAGES = 480, 128
_PARTS = ("fitted", "held_out")


@dataclass(kw_only=True, eq=False, repr=False)
class RPMEstimator(Fitted):
    """Interpretable latents of a recording, and held-out numbers in nats, with scikit-learn's conventions.

    Rows of X that follow each other are the pairs (x, x'); the encoder is fitted so that the prior P(z'|z) explains
    how one follows the other, by the ELBO of a recognition-parameterised model. No label is needed, and none is used.
    With `fit(X, X_prime=Y)` a pair is a row of X and the same row of another modality, with an encoder each.

    `prior` may also be a recparam prior, and `encoder` and `encoder_prime` torch modules that map (B, ...) to
    (B, latent_dim), or to (B, 2 latent_dim) for a prior with a density; all are copied. `random_state` may also be a
    numpy RandomState. `describe()` gives the prior's equation. A prior that reads several earlier latents gets as many
    earlier rows, one lag apart. Pairs of another kind are declared with `fit(pairs=...)`. For several devices there is
    `rp.RPMModule`.

    Args:
        SETTINGS
        progress: Whether to print a line to standard error for each evaluation on the held-out rows.

    Attributes:
        model_: The fitted `rp.RPM`.
        encoder_: Its network. Where x' has a network of its own, that is `encoder_prime_`.
        prior_: Its prior.
        history_: One dictionary per evaluation on the held-out rows: step, bound_nats, ceiling_nats, validation_nats.
        restarts_: One dictionary per start: choice, window, lag, dropout, seed, steps, predicted_share (by which
            choices are compared), validation_nats, behind_nats (of the best start after as
            many steps), chosen.
        validation_nats_: The held-out bound of the state that was kept.
        n_features_in_: As scikit-learn's.
        window_: Rows of the window that the encoder reads.
        lag_: The lags that were used, where pairs were not declared otherwise.
        bank_size_: Pairs in the bank; fewer than `bank_size` where there are fewer training pairs.
        shape_in_: Shape of a row of x, and `shape_in_prime_` of x' where that has an encoder of its own.
        session_shapes_: Shapes of the rows of sessions with channels of their own; None: there are none.

    Example:
        >>> import numpy as np
        >>> import recparam as rp
        >>> place = np.cumsum(np.random.default_rng(0).normal(size=(300, 2)), axis=0)
        >>> seen = np.tanh(place @ np.random.default_rng(1).normal(size=(2, 6)) / 9)
        >>> est = rp.RPMEstimator(max_steps=20, restarts=1, random_state=0).fit(seen[:200])
        >>> est.transform(seen[200:]).shape
        (100, 2)
    """

    prior: Any = Settings.prior  # these may be objects, lists and arrays, too, which a file does not hold
    encoder: Any = Settings.encoder
    encoder_prime: Any = Settings.encoder_prime
    lag: Any = Settings.lag
    dropout: Any = Settings.dropout
    random_state: Any = Settings.random_state
    devices: Any = Settings.devices
    progress: bool = False

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        X_prime: Any = None,
        sessions: Any = None,
        times: Any = None,
        pairs: Pairs | None = None,
        resume: str | os.PathLike[str] | Checkpoint | None = None,
    ) -> RPMEstimator:
        """Fit encoder and prior.

        Args:
            X: Rows in the order in which they were observed, (N, ...): an array (memory-mapped ones stay on disk), a
                tensor, a data frame, a `Recording`, or a list of arrays, one per session.
            y: Ignored, with a warning. Declare what pairs should be conditioned on with `pairs=`.
            X_prime: A second modality: row i is the x' of row i of X, and has `encoder_prime`. `lag` is not used; for
                pairs some rows apart give `pairs=aligned(recording, recording_prime, lag=...)`.
            sessions: The session of each row, (N,); no pair crosses from one into another.
            times: When each row was observed, (N,), in seconds; no pair crosses a gap.
            pairs: Which rows are pairs, from `recparam.data.pairs`, in place of `lag`; X is then their recording.
            resume: A folder for a checkpoint, which is written every ten seconds at most and at the end. An interrupted
                fit with the same data and settings resumes from it; on a CPU its weights are those of a fit that was
                not interrupted. A fit that is complete is not repeated. The folder is not removed.

        Returns:
            The estimator.

        Raises:
            ValueError: Data or settings that cannot be fitted, or that are not those of the checkpoint.
        """
        check_settings(self)
        checkpoint = resume if resume is None or isinstance(resume, Checkpoint) else Checkpoint(resume)
        prior = make_prior(self.prior, self.latent_dim)
        recording, declared = self._recording_and_pairs(
            X, X_prime, sessions, times, pairs, order=prior.order, reset=True
        )
        warn_of_labels(y)
        if declared is None:
            paired(recording, 1, window=1, order=prior.order)  # there are rows for a pair
        check_varies(recording)
        if declared is not None and declared.recording_prime is not None:
            check_varies(declared.recording_prime, "X_prime")
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        if checkpoint is not None and checkpoint.facts is not None and self.random_state is None:
            seed = checkpoint.facts["seed"]
        self._seed = seed
        found = candidates(self, recording, declared, prior=prior, seed=seed)
        targets = None
        if len(found) > 1:
            rows = filled(found[0].make(0, 0), recording)
            targets = Targets(rows, *(_rows_of_all([getattr(c, part) for c in found]) for part in _PARTS))
        of_encoders = len({candidate.choice.encoder for candidate in found}) > 1  # starts are compared among them
        return self._train(found, targets, checkpoint, starts=1 if of_encoders else self.restarts)

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        X_prime: Any = None,
        sessions: Any = None,
        times: Any = None,
        pairs: Pairs | None = None,
    ) -> RPMEstimator:
        """Train the current weights on new data, from which the bank is then taken; the first call is `fit`.

        Arguments and errors as in `fit`, but for constant columns, which a short segment may have.
        """
        if not hasattr(self, "model_"):
            return self.fit(X, y, X_prime=X_prime, sessions=sessions, times=times, pairs=pairs)
        check_settings(self)
        declared = self.pairs_of(X, X_prime=X_prime, sessions=sessions, times=times, pairs=pairs)
        warn_of_labels(y)
        self._seed = mixed(self._seed, 1)
        fitted, held_out = split_off(declared, self.validation_fraction)
        bank, last = spread_pairs(fitted, self.bank_size), self.model_
        choice = Choice(self.encoder, self.window_, self.lag_)
        again = Candidate(choice, fitted, held_out, bank, [self._specs], self._shapes, lambda number, nth: last)
        return self._train([again], starts=1)

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
    def load(
        cls, folder: str | os.PathLike[str], *, encoder: Any = None, encoder_prime: Any = None, prior: Any = None
    ) -> RPMEstimator:
        """Read a model that `save` wrote; nothing in the files is run.

        Args:
            folder: Of the model.
            encoder: For a model whose encoder was a module: a module like it, or its class if that needs no arguments.
                It takes the saved weights.
            encoder_prime: Likewise for the encoder of x'.
            prior: Likewise for a model whose prior was an object.

        Raises:
            FileNotFoundError: No such folder, or no model in it.
            StorageError: A file is damaged, changed, or of a newer version.
            ValueError: A custom encoder or prior is needed, or does not fit the weights.
        """
        return saved.load(cls, folder, encoder=encoder, encoder_prime=encoder_prime, prior=prior)

    def _train(
        self,
        found: Sequence[Candidate],
        targets: Targets | None = None,
        checkpoint: Checkpoint | None = None,
        *,
        starts: int,
    ) -> RPMEstimator:
        images = len(found[0].shapes[0]) > 1 and not found[0].fitted.recording.overlap
        plan = Plan(
            steps=(STEPS_OF_IMAGES if images else STEPS) if self.max_steps is None else self.max_steps,
            starts=starts,
            batch_size=(_BATCH_OF_IMAGES if images else _BATCH) if self.batch_size is None else self.batch_size,
            lr=self.learning_rate,
            seed=self._seed,
            progress=self.progress,
            precision=self.precision,
            halvings=LATE if images else EARLY,  # of small networks on frames the slow ones may end ahead
        )
        if self.progress and (len(found) > 1 or starts > 1):
            compared = "; ".join(candidate.choice.text for candidate in found)
            print(f"At most {plan.budget(len(found))} steps: {compared}; {starts} start(s).", file=sys.stderr)
        facts = None
        if checkpoint is not None:
            numbers = {"max_steps": plan.steps, "batch_size": plan.batch_size, "seed": plan.seed}
            numbers |= {"learning_rate": plan.lr or found[0].learning_rate}
            facts = facts_of(self.get_params(deep=False) | numbers, candidates=found)
        device = device_of(self.accelerator, self.devices, self.precision)
        search = Search(found, targets, plan=plan, device=device, checkpoint=checkpoint)
        best, chosen, nth = search.train(facts)
        fitted, held_out = chosen.fitted, chosen.held_out
        self.restarts_, self.history_, self.validation_nats_ = search.table, best.history, float(best.best)
        self.window_, self.lag_, self._paired = chosen.choice.window, chosen.choice.lag, fitted.how
        self._lags, self._parted = lags_of(fitted), fitted.recording.parted
        self._set_encoders(
            chosen.encoders(nth), chosen.shapes, per_session=fitted.recording.row_shapes is not None
        )
        bank = chosen.bank_rows[np.argsort(fitted.second[chosen.bank_rows], kind="stable")]
        self._set_model(best.model, encoded_pairs(best.model, fitted, bank), strata_of(fitted, bank))
        z = self._head.recognition(parameters_of(best.model, held_out.recording, np.unique(held_out.first))).mean
        warn(
            alarms(z, held_out=best.best, step=best.best_step, history=best.history, starts=search.table),
            stacklevel=3,
        )
        return self


def _rows_of_all(parts: Sequence[Pairs]) -> np.ndarray:
    """Which rows are in pairs of each part, (N,)."""
    found = np.ones(len(parts[0].recording), dtype=bool)
    for pairs in parts:
        here = np.zeros_like(found)
        here[pairs.first] = here[pairs.second] = True
        found &= here
    return found


if RPMEstimator.__doc__ and Settings.__doc__:  # python -OO has none
    RPMEstimator.__doc__ = RPMEstimator.__doc__.replace(
        "        SETTINGS\n", Settings.__doc__.partition("Args:\n")[2].rstrip() + "\n"
    )
no_type_check(RPMEstimator.__init__)  # by scikit-learn's conventions, `fit` checks what `__init__` took
