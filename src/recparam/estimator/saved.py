"""Fitted estimators as folders: config.json, and weights.safetensors that holds the same configuration."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from recparam.estimator.names import NETWORKS, EncoderSpec, describe_prior, make_model, make_network, make_prior
from recparam.priors import Prior
from recparam.utils.storage import StorageError, check_format, load_state, replacing_folder, save_state, write_json
from recparam.utils.versions import versions

FORMAT, FORMAT_VERSION = "recparam-estimator", 3
_CONFIG, _WEIGHTS = "config.json", "weights.safetensors"
_CUSTOM = "custom"
_ENCODERS = ("encoder", "encoder_prime")  # of x, and of x' where it has one of its own


def save(estimator: Any, folder: str | os.PathLike[str]) -> None:
    """Write a fitted estimator; see `RPMEstimator.save`."""
    folder = Path(folder)
    _check_free(folder)
    tensors = {f"model.{name}": value for name, value in estimator.model_.state_dict().items()}
    for name, value in zip(("x", "x_prime"), estimator._head.bank, strict=True):
        tensors[f"bank.{name}"] = value
    if estimator._head.strata is not None:
        tensors["bank.groups"] = estimator._head.strata
    with replacing_folder(folder) as temporary:
        write_json(temporary / _CONFIG, _config(estimator))
        text = (temporary / _CONFIG).read_text(encoding="utf-8")
        save_state(temporary / _WEIGHTS, tensors=tensors, meta={"config": text})


def load(cls: Any, folder: str | os.PathLike[str], **objects: Any) -> Any:
    """Read a fitted estimator; see `RPMEstimator.load`."""
    folder = Path(folder)
    config, tensors = _read(folder)
    try:
        return _rebuilt(cls, folder, config, tensors, objects)
    except KeyError as error:
        raise StorageError(f"{folder}: {error} is missing in the saved model. Save it again.") from error


def _config(estimator: Any) -> dict[str, Any]:
    settings = estimator.get_params(deep=False)
    settings["random_state"] = estimator._seed if settings["random_state"] is None else settings["random_state"]
    if not isinstance(settings["random_state"], int):
        settings["random_state"] = None
    classes = {name: spec.network for name, spec in zip(_ENCODERS, estimator._specs, strict=False)}
    classes["prior"] = type(estimator.prior_).__qualname__
    custom = {name: kind for name, kind in classes.items() if not isinstance(settings[name], str)}
    for name in (*_ENCODERS, "prior"):
        if not isinstance(settings[name], str):
            settings[name] = _CUSTOM
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": versions(),
        "settings": settings,
        "custom": custom,
        "prior": describe_prior(estimator.prior, estimator.prior_),
        "encoders": [
            {"shape_in": shape} | asdict(spec)
            for shape, spec in zip(estimator._shapes, estimator._specs, strict=True)
        ],
        "per_session": estimator.session_shapes_ is not None,
        "pairs": estimator._paired,
        "window": estimator.window_,
        "parted": estimator._parted,
        "lag": list(estimator.lag_),
        "lags": list(estimator._lags),
        "feature_names_in": getattr(estimator, "feature_names_in_", None),
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
    what = "that of a saved estimator"
    check_format(folder / _CONFIG, config, name=FORMAT, version=FORMAT_VERSION, what=what)
    tensors, meta = load_state(folder / _WEIGHTS)
    if not isinstance(meta.get("config"), str) or json.loads(meta["config"]) != config:
        raise StorageError(
            f"{folder}: {_CONFIG} is not the one that was saved with {_WEIGHTS}: one of them was changed or belongs to "
            "another model. Restore both from a copy."
        )
    return config, tensors


def _rebuilt(
    cls: Any, folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], objects: dict[str, Any]
) -> Any:
    custom = config["custom"]
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in config["settings"].items()
    }
    for name, value in objects.items():
        kind = Prior if name == "prior" else nn.Module
        made = value() if isinstance(value, type) and issubclass(value, kind) else value
        told = config.get("prior", custom.get(name)) if name == "prior" else custom.get(name)
        if name in custom and not isinstance(made, kind):
            raise ValueError(
                f"Expected {name}= to load this model, whose {name} was given as an object, {told}; got {value!r}. "
                f"Files hold no code: use RPMEstimator.load(folder, {name}=...) with one like it."
            )
        if name not in custom and value is not None:
            raise ValueError(f"Expected {name}=None for a model saved with {name}={settings[name]!r}; got {value!r}.")
        settings[name] = made if name in custom else settings[name]
    specs = [_spec(described) for described in config["encoders"]]
    shapes, per_session = [tuple(described["shape_in"]) for described in config["encoders"]], config["per_session"]
    names = [_ENCODERS[0]] * len(specs) if per_session else _ENCODERS[: len(specs)]
    for name, spec in zip(names, specs, strict=True):
        if name not in custom and spec.network not in NETWORKS:
            raise StorageError(f"{folder}: unknown network {spec.network!r}. Update recparam.")
    estimator = cls(**settings)
    made = make_prior(settings["prior"], settings["latent_dim"])
    nets = [
        make_network(spec, settings[name], rows=None, restart=0) for name, spec in zip(names, specs, strict=True)
    ]
    model = make_model(nets, made, row_shapes=shapes if per_session else None)
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
    saved, found = config.get("prior"), describe_prior(settings["prior"], model.prior)
    same_words = config["versions"].get("recparam") == versions()["recparam"]
    if "prior" in custom and saved is not None and same_words and found != saved:  # its weights fit: another meaning
        raise ValueError(f"Expected prior= like the one that was saved, {saved}; got {found}. Give one like it.")
    estimator._set_encoders(specs, shapes, per_session=per_session)
    estimator._seed, estimator._paired = config["seed"], config["pairs"]
    estimator._lags = tuple(config.get("lags", ()))  # models of before priors that need them have none
    estimator.window_, estimator.lag_ = config["window"], tuple(config["lag"])
    estimator._parted = config["parted"]
    estimator.history_, estimator.restarts_ = config["history"], config["restarts"]
    estimator.validation_nats_ = config["metrics"]["validation_nats"]
    bank = (tensors["bank.x"], tensors["bank.x_prime"])
    estimator._restore(model, bank, tensors.get("bank.groups"), names=config["feature_names_in"])
    return estimator


def _spec(described: dict[str, Any]) -> EncoderSpec:
    standardised = described["standardised"]
    return EncoderSpec(
        described["network"],
        described["arguments"],
        None if standardised is None else (tuple(standardised[0]), tuple(standardised[1])),
        described["dropout"],
        tuple(described.get("spheres", ())),  # models of before such priors have none
        None if described["pool"] is None else (described["pool"][0], tuple(described["pool"][1])),
    )


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"folder: expected a folder to write, got the file {folder}. Choose another name.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _CONFIG).is_file():
        raise FileExistsError(
            f"folder: expected a new or empty folder, or a saved model to replace; {folder} holds something else. "
            "Choose another name."
        )
