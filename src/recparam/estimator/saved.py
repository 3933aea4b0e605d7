"""Fitted estimators as folders: config.json, and weights.safetensors that holds the same configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from recparam.estimator.choices import NETWORKS, EncoderSpec, make_model, make_prior
from recparam.priors import Prior
from recparam.storage import StorageError, load_state, replacing_folder, save_state, write_json
from recparam.versions import versions

FORMAT, FORMAT_VERSION = "recparam-estimator", 1
_CONFIG, _WEIGHTS = "config.json", "weights.safetensors"
_CUSTOM = "custom"


def save(estimator: Any, folder: str | os.PathLike[str]) -> None:
    """Write a fitted estimator; see `RPMEstimator.save`."""
    folder = Path(folder)
    _check_free(folder)
    tensors = {f"model.{name}": value for name, value in estimator.model_.state_dict().items()}
    for name, value in zip(("x", "x_prime"), estimator._head.bank, strict=True):
        tensors[f"bank.{name}"] = value
    with replacing_folder(folder) as temporary:
        write_json(temporary / _CONFIG, _config(estimator))
        text = (temporary / _CONFIG).read_text(encoding="utf-8")
        save_state(temporary / _WEIGHTS, tensors=tensors, meta={"config": text})


def load(cls: Any, folder: str | os.PathLike[str], *, encoder: Any, prior: Any) -> Any:
    """Read a fitted estimator; see `RPMEstimator.load`."""
    folder = Path(folder)
    config, tensors = _read(folder)
    try:
        return _rebuilt(cls, folder, config, tensors, encoder=encoder, prior=prior)
    except KeyError as error:
        raise StorageError(f"{folder}: {error} is missing in the saved model. Save it again.") from error


def _config(estimator: Any) -> dict[str, Any]:
    spec = estimator._spec
    settings = estimator.get_params(deep=False)
    settings["random_state"] = estimator._seed if settings["random_state"] is None else settings["random_state"]
    if not isinstance(settings["random_state"], int):
        settings["random_state"] = None
    custom = {name: not isinstance(settings[name], str) for name in ("encoder", "prior")}
    classes = {"encoder": spec.network, "prior": type(estimator.prior_).__qualname__}
    for name in custom:
        settings[name] = _CUSTOM if custom[name] else settings[name]
    names = getattr(estimator, "feature_names_in_", None)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": versions(),
        "settings": settings,
        "custom": {name: classes[name] for name, is_custom in custom.items() if is_custom},
        "encoder": {
            "network": spec.network,
            "arguments": spec.arguments,
            "standardised": spec.standardised,
            "dropout": spec.dropout,
        },
        "shape_in": estimator.shape_in_,
        "feature_names_in": names,
        "seed": estimator._seed,
        "metrics": {"validation_nats": estimator.validation_nats_},
        "history": estimator.history_,
        "restarts": estimator.restarts_,
    }


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: expected a saved model, a folder with {_CONFIG} and {_WEIGHTS}; {name} is not there. "
                "Check the path."
            )
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise StorageError(f"{folder / _CONFIG}: damaged ({error}). Restore it from a copy.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise StorageError(f"{folder / _CONFIG}: not that of a saved estimator. Check the path.")
    format_version = config.get("format_version")
    if not isinstance(format_version, int) or format_version > FORMAT_VERSION:
        raise StorageError(
            f"{folder / _CONFIG}: expected format version {FORMAT_VERSION} or older, got {format_version!r}. "
            "Update recparam."
        )
    tensors, meta = load_state(folder / _WEIGHTS)
    if not isinstance(meta.get("config"), str) or json.loads(meta["config"]) != config:
        raise StorageError(
            f"{folder}: {_CONFIG} is not the one that was saved with {_WEIGHTS}: one of them was changed or belongs to "
            "another model. Restore both from a copy."
        )
    return config, tensors


def _rebuilt(
    cls: Any, folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], *, encoder: Any, prior: Any
) -> Any:
    settings, custom, described = dict(config["settings"]), config["custom"], config["encoder"]
    for name, given, kind in (("encoder", encoder, nn.Module), ("prior", prior, Prior)):
        made = given() if isinstance(given, type) and issubclass(given, kind) else given
        if name in custom and not isinstance(made, kind):
            raise ValueError(
                f"Expected {name}= to load this model, whose {name} was a {custom[name]} of somebody's own; got "
                f"{given!r}. Files hold no code: use RPMEstimator.load(folder, {name}=...) with one like it."
            )
        if name not in custom and given is not None:
            raise ValueError(f"Expected {name}=None for a model saved with {name}={settings[name]!r}; got {given!r}.")
        settings[name] = made if name in custom else settings[name]
    if "encoder" not in custom and described["network"] not in NETWORKS:
        raise StorageError(f"{folder}: unknown network {described['network']!r}. Update recparam.")
    standardised = described["standardised"]
    spec = EncoderSpec(
        described["network"],
        described["arguments"],
        None if standardised is None else (tuple(standardised[0]), tuple(standardised[1])),
        described["dropout"],
    )
    estimator = cls(**settings)
    made = make_prior(settings["prior"], settings["latent_dim"])
    model = make_model(spec, settings["encoder"], made, recording=None, rows=None, restart=0)
    state = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        if custom:
            raise ValueError(
                f"Expected {' and '.join(f'{name}=' for name in custom)} that fits the saved weights; got another "
                f"architecture ({error})."
            ) from error
        raise StorageError(f"{folder}: weights do not fit the configuration ({error}). Save it again.") from error
    estimator._spec, estimator.shape_in_, estimator._seed = spec, tuple(config["shape_in"]), config["seed"]
    estimator.history_, estimator.restarts_ = config["history"], config["restarts"]
    estimator.validation_nats_ = config["metrics"]["validation_nats"]
    estimator._restore(model, (tensors["bank.x"], tensors["bank.x_prime"]), names=config["feature_names_in"])
    return estimator


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"folder: expected a folder to write, got the file {folder}. Choose another name.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _CONFIG).is_file():
        raise FileExistsError(
            f"folder: expected a new or empty folder, or a saved model to replace; {folder} holds something else. "
            "Choose another name."
        )
