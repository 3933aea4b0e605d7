"""The estimator: a recognition-parameterised model with scikit-learn's conventions."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, no_type_check

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from recparam.data.contexts import lags_of
from recparam.data.pairs import Pairs
from recparam.estimator import saved
from recparam.estimator.alarms import alarms, warn
from recparam.estimator.device import device_of
from recparam.estimator.encoding import encoded_pairs, parameters_of
from recparam.estimator.fitted import Fitted
from recparam.estimator.held_out import spread_pairs, strata_of
from recparam.estimator.inputs import check_settings, check_varies, filled_pairs, sources, warn_of_labels
from recparam.estimator.names import choose_encoder, dropouts, make_model, make_network, make_prior
from recparam.estimator.resuming import Checkpoint, facts_of
from recparam.estimator.settings import Settings
from recparam.estimator.spheres import spheres_of
from recparam.estimator.starts import Plan, split_off, train_starts
from recparam.utils.seeds import seeded

_STEPS, _BATCH = 1500, 512
_STEPS_OF_IMAGES, _BATCH_OF_IMAGES = 500, 128


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
        restarts_: One dictionary per start, when one was chosen: seed, steps, validation_nats, chosen.
        validation_nats_: The held-out bound of the state that was kept.
        n_features_in_: As scikit-learn's.
        lag_: The lags that were used.
        bank_size_: Pairs in the bank; fewer than `bank_size` where there are fewer training pairs.
        shape_in_: Shape of a row of x, and `shape_in_prime_` of x' where that has an encoder of its own.
        session_shapes_: Shapes of the rows of sessions with channels of their own; None: there are none.

    Example:
        >>> import numpy as np
        >>> import recparam as rp
        >>> place = np.cumsum(np.random.default_rng(0).normal(size=(300, 2)), axis=0)
        >>> seen = np.tanh(place @ np.random.default_rng(1).normal(size=(2, 6)) / 9)
        >>> est = rp.RPMEstimator(max_steps=20, random_state=0).fit(seen[:200])
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
        dim, prior = self.latent_dim, make_prior(self.prior, self.latent_dim)
        order = prior.order
        recording, declared = self._recording_and_pairs(X, X_prime, sessions, times, pairs, order=order, reset=True)
        warn_of_labels(y)
        check_varies(recording)
        if declared.recording_prime is not None:
            check_varies(declared.recording_prime, "X_prime")
        fitted, held_out = split_off(declared, self.validation_fraction)
        parts = sources(self, fitted)
        shares = [dropouts(self.dropout, part.shape) for part in parts]
        specs = [
            [
                replace(
                    choose_encoder(
                        part.encoder,
                        shape=part.shape,
                        latent_dim=dim,
                        density=prior.needs_density,
                        dropout=each[number % len(each)],
                        of=part.name,
                    ),
                    spheres=spheres_of(prior),
                )
                for part, each in zip(parts, shares, strict=True)
            ]
            for number in range(max(map(len, shares)))
        ]
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        if checkpoint is not None and checkpoint.facts is not None and self.random_state is None:
            seed = checkpoint.facts["seed"]
        models = []
        for restart in range(self.restarts):
            with seeded(_mixed(seed, restart)):
                nets = [
                    make_network(spec, part.encoder, rows=part.rows, restart=restart)
                    for spec, part in zip(specs[restart % len(specs)], parts, strict=True)
                ]
                models.append(make_model(nets, prior, row_shapes=recording.row_shapes))
        fitted, held_out = (filled_pairs(models[0], part) for part in (fitted, held_out))
        self._check_outputs(models[0], fitted)
        self._set_encoders(specs[0], [part.shape for part in parts], per_session=recording.row_shapes is not None)
        self._seed, self._paired, self._lags = seed, declared.how, lags_of(declared)
        self._train(models, fitted, held_out, checkpoint)
        self._specs = specs[next(number for number, start in enumerate(self.restarts_) if start["chosen"]) % len(specs)]
        return self

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
        _, declared = self._recording_and_pairs(X, X_prime, sessions, times, pairs, order=self.order_, reset=False)
        warn_of_labels(y)
        self._seed, self._paired, self._lags = _mixed(self._seed, 1), declared.how, lags_of(declared)
        return self._train([self.model_], *split_off(declared, self.validation_fraction))

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
        self, models: list[Any], fitted: Pairs, held_out: Pairs, checkpoint: Checkpoint | None = None
    ) -> RPMEstimator:
        images = len(self.shape_in_) > 1
        bank = spread_pairs(fitted, self.bank_size)
        plan = Plan(
            steps=(_STEPS_OF_IMAGES if images else _STEPS) if self.max_steps is None else self.max_steps,
            batch_size=(_BATCH_OF_IMAGES if images else _BATCH) if self.batch_size is None else self.batch_size,
            lr=self.learning_rate,
            seed=self._seed,
            progress=self.progress,
            precision=self.precision,
        )
        numbers = {"max_steps": plan.steps, "batch_size": plan.batch_size, "seed": plan.seed}
        settings = self.get_params(deep=False) | numbers
        best, self.restarts_ = train_starts(
            models,
            fitted,
            held_out,
            plan=plan,
            bank_rows=bank,
            device=device_of(self.accelerator, self.devices, self.precision),
            checkpoint=checkpoint,
            facts=checkpoint
            and facts_of(settings, specs=self._specs, prior=models[0].prior, pairs=(fitted, held_out)),
        )
        self.history_, self.validation_nats_ = best.history, float(best.best)
        bank = bank[np.argsort(fitted.second[bank], kind="stable")]
        self._set_model(best.model, encoded_pairs(best.model, fitted, bank), strata_of(fitted, bank))
        z = self._head.recognition(parameters_of(best.model, held_out.recording, np.unique(held_out.first))).mean
        warn(alarms(z, held_out=best.best, step=best.best_step, history=best.history), stacklevel=3)
        return self

    def _check_outputs(self, model: Any, fitted: Pairs) -> None:
        outputs = self.latent_dim * (2 if model.prior.needs_density else 1)
        x, x_prime = encoded_pairs(model, fitted, np.arange(2))  # x may be several rows, of the encoder of x'
        sides = {"": x, "_prime": x_prime} if model.prior.order == 1 else {"": x_prime}
        for name, parameters in sides.items():
            if tuple(parameters.shape) != (2, outputs):
                raise ValueError(
                    f"Expected an encoder{name} with {outputs} outputs for latent_dim={self.latent_dim}"
                    f"{' (means and log-variances)' if model.prior.needs_density else ''}; got outputs of shape "
                    f"{tuple(parameters.shape)} for 2 rows."
                )


if RPMEstimator.__doc__ and Settings.__doc__:  # python -OO has none
    RPMEstimator.__doc__ = RPMEstimator.__doc__.replace(
        "        SETTINGS\n", Settings.__doc__.partition("Args:\n")[2].rstrip() + "\n"
    )
no_type_check(RPMEstimator.__init__)  # by scikit-learn's conventions, `fit` checks what `__init__` took


def _mixed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)
