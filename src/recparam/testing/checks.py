"""Conformance checks: each builds small objects from a constructor and states one property at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from recparam import bounds
from recparam.bounds import Bound
from recparam.couplings import (
    Bilinear,
    Coupling,
    GaussianRBF,
)
from recparam.marginals import BatchMarginal, DatasetMarginal, Marginal, Scored
from recparam.marginals.points import of_points
from recparam.model import RPM
from recparam.priors import (
    InfoNCEPrior,
    Kind,
    ParametricPrior,
    Prior,
    Side,
)
from recparam.recognition import (
    DensityError,
    Deterministic,
    Dirac,
    Particles,
    RecognitionModel,
    density_score,
    enumerable,
    recognise,
)
from recparam.recognition.posteriors import Posterior
from recparam.testing.shipped import INPUT_WIDTH, RECOGNITION_MODELS
from recparam.utils.checks import NonFiniteError

_SIDES: tuple[Side, ...] = (None, "upper", "lower")


class ConformanceError(AssertionError):
    """An object does not do what the library expects of its kind; the message names the property."""


def check_coupling(make: Callable[[int], Coupling], *, dim: int = 3) -> None:
    """Check a coupling of any order: shapes, agreement with its score, gradients, state, scale, dtype and widths.

    Args:
        make: Builds a fresh coupling for latents of the width it is given.
        dim: That width, at least 2.

    Raises:
        ConformanceError: Names the property that does not hold.
    """
    generator = _seeded(0)
    coupling = make(dim)
    order = coupling.order
    z = torch.randn(7, order * dim, generator=generator).requires_grad_()
    z_prime = torch.randn(7, dim, generator=generator).requires_grad_()
    coupling.initialise(z, z_prime)
    _require(coupling.initialised, "initialise(z, z_prime) leaves `initialised` true")
    before = _state(coupling)
    coupling.initialise(10 * z, 10 * z_prime)
    _require(_same_state(before, _state(coupling)), "a second initialise changes nothing")

    log_f = coupling(z, z_prime)
    pairs = coupling(z[:, None], z_prime[None])
    _require(log_f.shape == (7,), f"forward of 7 latents has shape (7,), not {tuple(log_f.shape)}")
    _require(pairs.shape == (7, 7), f"forward broadcasts to shape (7, 7), not {tuple(pairs.shape)}")
    _close(pairs.diagonal(), log_f, "broadcast and row-wise forward agree")
    _close(coupling(z.expand(2, 7, order * dim), z_prime), log_f.expand(2, 7), "forward takes several leading axes")

    tensors = [z, z_prime, *_parameters(coupling).values()]
    scored = coupling.score()(z, z_prime)
    _close(scored, pairs, "score() equals forward on every pair")
    weights = torch.randn(7, 7, generator=generator)
    for a, b in zip(_gradients(pairs, weights, tensors), _gradients(scored, weights, tensors), strict=True):
        _close(a, b, "score() and forward have the same gradients")
    _check_gradients(coupling, -torch.log_softmax(pairs, -1).diagonal().mean())

    fresh = make(dim)
    fresh.load_state_dict(coupling.state_dict())
    _require(fresh.initialised, "load_state_dict restores `initialised`")
    _close(fresh(z, z_prime), log_f, "load_state_dict restores the values")

    for factor in (1e-3, 1e3):
        scaled = make(dim)
        scaled.initialise(factor * z.detach(), factor * z_prime.detach())
        value = scaled(factor * z, factor * z_prime)
        grads = _gradients(value, torch.ones_like(value), [z, z_prime])
        _require(all(bool(torch.isfinite(t).all()) for t in (value, *grads)), f"values are finite at scale {factor}")

    double = make(dim).double()
    double.initialise(z.detach().double(), z_prime.detach().double())
    _require(log_f.dtype == torch.float32, "float32 latents give a float32 value")
    _require(double(z.double(), z_prime.double()).dtype == torch.float64, "after .double() the value is float64")

    for widths in ((dim, dim + 1), (dim + 1, dim), (1, 1)):
        _check_widths(make(dim), torch.randn(5, order * widths[0]), torch.randn(5, widths[1]))
    _close((coupling + coupling)(z, z_prime), 2 * log_f, "a coupling can be added to another")


def check_recognition(make: Callable[[int], RecognitionModel], *, dim: int = 3, width: int = INPUT_WIDTH) -> None:
    """Check a recognition model: its distribution, particles, density score, gradients, state, dtype and errors.

    Args:
        make: Builds a fresh recognition model with latents of the width it is given.
        dim: That width, at least 2.
        width: Width of the observations (B, width) it takes.

    Raises:
        ConformanceError: Names the property that does not hold.
    """
    generator = _seeded(0)
    x, x_prime = (torch.randn(6, width, generator=generator) for _ in range(2))
    model = make(dim).eval()
    distribution = model(x)
    shapes = (tuple(distribution.batch_shape), tuple(distribution.event_shape), tuple(distribution.mean.shape))
    _require(shapes == ((6,), (dim,), (6, dim)), f"model(x) is a distribution over (6,) rows of ({dim},); got {shapes}")
    together = model.encode_many(x, x_prime)
    _require(len(together) == 2, "encode_many returns one distribution per batch")
    for got, batch in zip(together, (x, x_prime), strict=True):
        _close(got.mean, model(batch).mean, "encode_many and one-by-one encoding agree")

    def draw(seed: int) -> list[Tensor]:
        source = _seeded(seed)
        particles = recognise([distribution, model(x_prime)], num_samples=5, generator=source)
        _require(particles.exact == enumerable([distribution]), "particles are exact where latents are enumerable")
        _close(particles.log_weights.exp().sum(0), torch.ones(6), "particle weights sum to one")
        _require(particles.latents[0].shape == (len(particles.log_weights), 6, dim), "particles have shape (S, B, D)")
        return list(particles.latents)

    first, again, other = draw(1), draw(1), draw(2)
    _require(torch.equal(first[0], again[0]), "the same generator seed gives the same latents")
    if not enumerable([distribution]):
        _require(not torch.equal(first[0], other[0]), "another generator seed gives other latents")

    if isinstance(distribution, Dirac):
        _require_error(DensityError, lambda: density_score(distribution), "Eq. 46", "a Dirac's density is an error")
    else:
        score, bank = density_score(distribution)
        z = first[0][0]
        truth = torch.stack([distribution.log_prob(row.expand(6, dim)) for row in z])
        _close(score(z, bank), truth, "density_score equals log_prob on every pair")

    # a bilinear coupling, because the other objectives do not see a shift of all latents
    bound = RPM(model, InfoNCEPrior(Bilinear(dim))).elbo(x, x_prime, generator=generator)
    _check_gradients(model, -bound.value)
    fresh = make(dim).eval()
    fresh.load_state_dict(model.state_dict())
    _close(fresh(x).mean, distribution.mean, "load_state_dict restores the values")
    _require(make(dim).double()(x.double()).mean.dtype == torch.float64, "after .double() latents are float64")

    broken = make(dim)
    broken.net = nn.Flatten(0)
    _require_error(ValueError, lambda: broken(x), "net(x)", "a network that loses the batch axis is named")
    _require_error(NonFiniteError, lambda: model(x / 0), "network", "a network that returns NaN is named")


def check_prior(
    make: Callable[[int], Prior],
    *,
    recognition: Callable[[int], RecognitionModel] = RECOGNITION_MODELS["gaussian"],
    dim: int = 3,
) -> None:
    """Check a prior: its terms, what it calls its values, ceilings, gradients, densities, state, dtype and widths.

    Args:
        make: Builds a fresh prior for latents of the width it is given.
        recognition: Builds a recognition model whose latents the prior understands, for observations of width
            INPUT_WIDTH.
        dim: The latents' width, at least 2.

    Raises:
        ConformanceError: Names the property that does not hold.
    """
    generator = _seeded(0)
    x, x_prime = (torch.randn(6, INPUT_WIDTH, generator=generator) for _ in range(2))
    model = RPM(recognition(dim), make(dim))
    prior = model.prior
    model.initialise(x, x_prime)
    for marginal in (BatchMarginal(), DatasetMarginal(x, x_prime)):
        model.marginal = marginal
        for side in _SIDES:
            bound = model.elbo(x, x_prime, side=side, num_samples=2, generator=generator)
            name = f"{type(marginal).__name__}, side={side!r}"
            _require(bound.per_observation.shape == (6,), f"one value per observation ({name})")
            _require(bool(torch.isfinite(bound.per_observation).all()), f"values are finite ({name})")
            _close(torch.stack(list(bound.terms.values())).sum(), bound.value, f"terms add up to the value ({name})")
            allowed = get_args(Kind) if side is None else (side, "exact")
            _require(bound.kind in allowed, f"a {side} bound is of that kind or exact, not {bound.kind} ({name})")
            # that of a normalised density holds in expectation only
            if bound.ceiling is not None and not isinstance(prior, ParametricPrior):
                _require(float(bound) <= bound.ceiling + 1e-4, f"the value is at most its ceiling ({name})")

    model.marginal = BatchMarginal()
    bound = model.elbo(x, x_prime, generator=_seeded(1))
    _check_gradients(prior, -bound.value)

    z, z_prime = torch.randn(6, dim, generator=generator), torch.randn(6, dim, generator=generator)
    if prior.needs_density:
        name = type(prior).__name__
        _require_error(DensityError, lambda: prior.log_ratio(z, z_prime), name, "latents alone name the prior")
        sure = RPM(Deterministic(nn.Linear(INPUT_WIDTH, dim)), make(dim))
        _require_error(DensityError, lambda: sure.elbo(x, x_prime), "Eq. 46", "a Dirac names the cure, Eq. 46")
    else:
        by_rows = bounds.elbo(prior, of_points(z, z_prime)).per_observation
        _close(prior.log_ratio(z, z_prime), by_rows, "log_ratio of latents is their ELBO")

    other = RPM(recognition(dim), make(dim))
    other.load_state_dict(model.state_dict())
    restored = other.elbo(x, x_prime, generator=_seeded(1))
    _close(restored.value, bound.value, "load_state_dict restores the values")
    double = RPM(recognition(dim), make(dim)).double()
    _require(double.elbo(x.double(), x_prime.double()).value.dtype == torch.float64, "after .double() it is float64")

    try:
        make(dim).check_widths([dim, dim + 1])
    except ValueError as error:
        _require(str(dim + 1) in str(error), f"an error about widths says which came, not {error}")


def check_posterior(
    make: Callable[[int, int], Posterior],
    *,
    recognition: Callable[[int], RecognitionModel] = RECOGNITION_MODELS["gaussian"],
    dim: int = 3,
) -> None:
    """Check a posterior: its particles, their correction, gradients, state, dtype and what it does with a Dirac.

    The correction is held to E_Q[R_phi / Q] = 1, over draws where Q is drawn from: a Q that starts at less than about
    0.8 times the width of R_phi makes that mean too noisy to tell.

    Args:
        make: Builds a fresh posterior for pairs of latents of the width and for the number of pairs it is given, whose
            observations have width INPUT_WIDTH.
        recognition: Builds a recognition model whose latents the posterior understands.
        dim: The latents' width, at least 2.

    Raises:
        ConformanceError: Names the property that does not hold.
    """
    generator = _seeded(0)
    observations = [torch.randn(6, INPUT_WIDTH, generator=generator) for _ in range(2)]
    model = RPM(recognition(dim), InfoNCEPrior(Bilinear(dim)), posterior=make(dim, 6))
    distributions = [model.encode(x) for x in observations]

    def draw(seed: int, size: int = 5) -> Particles:
        source = _seeded(seed)
        return model.posterior(distributions, observations, num_samples=size, generator=source)

    particles = draw(1)
    shape = particles.log_weights.shape
    _require(shape[1:] == (6,), f"log_weights have shape (S, 6), not {tuple(shape)}")
    for z in particles.latents:
        _require(z.shape == (*shape, dim), f"latents have shape (S, 6, {dim}), not {tuple(z.shape)}")
    _close(particles.log_weights.exp().sum(0), torch.ones(6), "particle weights sum to one")
    again = draw(1)
    _require(torch.equal(again.latents[0], particles.latents[0]), "the same generator seed gives the same latents")
    free = particles.log_correction is not None
    if free:
        many = draw(2, 4000)
        _require(many.log_correction is not None, "log_correction is given at every call, or at none")
        ratio = torch.zeros_like(many.log_weights) if many.log_correction is None else many.log_correction.exp()
        _require(ratio.shape == many.log_weights.shape, "log_correction has the shape of log_weights")
        mean = (many.log_weights.exp() * ratio).sum(0)
        error = torch.zeros_like(mean) if many.exact else 5 * ratio.std(0) / len(ratio) ** 0.5
        _require(bool(((mean - 1).abs() <= error + 1e-3).all()), "the mean of R_phi / Q under Q is one")

    def value(of: RPM) -> Bound:
        return of.elbo(*observations, num_samples=2, generator=_seeded(1))

    bound = value(model)
    _require(bool(torch.isfinite(bound.per_observation).all()), "values are finite")
    _close(torch.stack(list(bound.terms.values())).sum(), bound.value, "terms add up to the value")
    _check_gradients(model.posterior, -bound.value)
    other = RPM(recognition(dim), InfoNCEPrior(Bilinear(dim)), posterior=make(dim, 6))
    other.load_state_dict(model.state_dict())
    _close(value(other).value, bound.value, "load_state_dict restores the values")
    double = other.double().elbo(*(x.double() for x in observations))
    _require(double.value.dtype == torch.float64, "after .double() it is float64")
    if free:
        sure = RPM(Deterministic(nn.Linear(INPUT_WIDTH, dim)), InfoNCEPrior(Bilinear(dim)), posterior=make(dim, 6))
        _require_error(DensityError, lambda: sure.elbo(*observations), "Eq. 46", "a Dirac names the cure, Eq. 46")


def check_marginal(make: Callable[..., Marginal]) -> None:
    """Check a marginal: finite values, weights, ceiling, and no dependence on the order of rows.

    Args:
        make: Builds the marginal, given the observations that make the data set.

    Raises:
        ConformanceError: Names the property that does not hold.
    """
    generator = _seeded(0)
    observations = [torch.randn(6, 3, generator=generator) for _ in range(2)]
    encoder = Deterministic(nn.Identity())
    model = RPM(encoder, InfoNCEPrior(GaussianRBF(lengthscale=1.0)), marginal=make(*observations))
    encoded = encoder.encode_many(*observations)
    equal = torch.full((6,), 1 / 6)
    scored = Scored(observations, encoded, recognise(encoded), equal)
    recognised = model.marginal.recognised(scored, encode=encoder.encode_many)
    for name, given in (("row", recognised.weights), ("bank", recognised.joint.bank.weights)):
        _close(given.sum(), torch.ones(()), f"{name} weights sum to one")
    bound = model.elbo(*observations)
    _require(bool(torch.isfinite(bound.per_observation).all()), "values are finite")
    if bound.ceiling is not None:
        _require(float(bound) <= bound.ceiling + 1e-4, "the value is at most its ceiling")
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    model.eval()  # nothing is remembered between the two
    bound = model.elbo(*observations)
    rows = order if isinstance(model.marginal, DatasetMarginal) else None
    shuffled = model.elbo(*(x[order] for x in observations), rows=rows)
    _close(shuffled.value, bound.value, "the order of rows does not matter")


def _seeded(seed: int) -> torch.Generator:
    """On torch's default device, where the checks build what they need."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConformanceError(f"Expected: {message}.")


def _require_error(kind: type[Exception], call: Callable[[], object], words: str, message: str) -> None:
    """The call raises that error, and its text holds the words."""
    try:
        call()
    except kind as error:
        _require(words in str(error), f"{message}, with {words!r} in the text; got {error}")
    else:
        raise ConformanceError(f"Expected: {message} ({kind.__name__}); got no error.")


def _close(got: Tensor, expected: Tensor, message: str) -> None:
    near = got.shape == expected.shape and torch.allclose(got, expected.to(got.dtype), rtol=1e-4, atol=1e-5)
    _require(near, f"{message}; got {got.detach().flatten()[:4].tolist()}.. and {expected.flatten()[:4].tolist()}..")


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _same_state(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _gradients(value: Tensor, weights: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad((weights * value).sum(), tensors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors, strict=True)]


def _check_gradients(module: nn.Module, loss: Tensor) -> None:
    """Every parameter has a finite gradient of a loss, and not only zeros."""
    named = _parameters(module)
    if not named:
        return
    found: Sequence[Tensor | None] = [None] * len(named)
    if loss.requires_grad:
        found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    for name, gradient in zip(named, found, strict=True):
        alive = gradient is not None and bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())
        _require(alive, f"parameter {name} has a finite, non-zero gradient")


def _check_widths(coupling: Coupling, z: Tensor, z_prime: Tensor) -> None:
    """Latents of the wrong width give a ValueError that says both, or are fine; never a stray error."""
    widths = (z.shape[1], z_prime.shape[1])
    try:
        value = coupling(z, z_prime)
    except ValueError as error:
        of_z = (str(widths[0]), str(widths[0] // coupling.order))
        said = any(width in str(error) for width in of_z) and str(widths[1]) in str(error)
        _require(said, f"an error about widths says that {widths} came, not {error}")
    else:
        _require(value.shape == (5,), f"latents of widths {widths} are an error or give one value per row")
