"""Latents on circles and spheres: closed forms of the coupling, networks that end on them, and priors by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import i0e, i1e
from torch import Tensor, nn

import recparam as rp
from quick_fits import quick
from recparam.cli.app import main
from recparam.data.channels import own_channels
from recparam.data.conditioned import nearest
from recparam.data.recording import Recording
from recparam.evaluation import angle_error
from recparam.networks import OnSphere, Standardised
from recparam.plots.prior import draw_prediction
from recparam.utils.checks import UninitialisedError

quiet = pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")


def circle(points: int, *, offset: float = 0.0) -> Tensor:
    """Points evenly on the unit circle: sums over them are integrals of smooth functions, to rounding."""
    angle = offset + torch.arange(points, dtype=torch.float64) * (2 * torch.pi / points)
    return torch.stack([angle.cos(), angle.sin()], 1)


def log_i0(kappa: float) -> float:
    return float(np.log(i0e(kappa)) + kappa)


def directions(dim: int, *kappas: float) -> rp.Directions:
    """A coupling in double precision with these concentrations, one of each sphere."""
    coupling = rp.Directions(dim, width=dim // len(kappas), concentration=1.0).double()
    with torch.no_grad():
        coupling.tenth_log_concentration.copy_(torch.tensor(kappas, dtype=torch.float64).log() / 10)
    return coupling


class TestClosedForms:
    @pytest.mark.parametrize("kappa", [0.1, 3.0, 60.0])
    def test_z_of_an_even_circle_is_a_bessel_function(self, kappa: float) -> None:
        z, z_prime = circle(256, offset=0.3), circle(256)
        value = rp.InfoNCEPrior(directions(2, kappa)).log_ratio(z, z_prime)
        assert torch.allclose(value, torch.full_like(value, kappa * np.cos(0.3) - log_i0(kappa)), atol=1e-10)

    def test_z_of_a_torus_is_the_product_over_circles(self) -> None:
        one = circle(48)
        torus = torch.cat([one.repeat_interleave(48, 0), one.repeat(48, 1)], 1)
        value = rp.InfoNCEPrior(directions(4, 2.0, 5.0)).log_ratio(torus, torus)
        assert torch.allclose(value, torch.full_like(value, 7 - log_i0(2) - log_i0(5)), atol=1e-10)

    def test_z_of_an_even_sphere_is_sinh_kappa_over_kappa(self) -> None:
        height, weight = np.polynomial.legendre.leggauss(24)
        height, radius = torch.from_numpy(height), torch.from_numpy(np.sqrt(1 - height**2))
        around = circle(48)
        sphere = torch.cat([(radius[:, None, None] * around).flatten(0, 1), height.repeat_interleave(48)[:, None]], 1)
        marginal = rp.DatasetMarginal(sphere, sphere, weights=torch.from_numpy(weight).repeat_interleave(48))
        model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(directions(3, 4.0)), marginal=marginal).eval()
        bound = model.elbo(sphere, sphere)
        assert torch.allclose(bound.per_observation, torch.tensor(4 - np.log(np.sinh(4.0) / 4)), atol=1e-10)

    @pytest.mark.parametrize("kappa", [0.5, 8.0])
    def test_at_the_true_concentration_the_elbo_is_the_information_and_its_gradient_zero(self, kappa: float) -> None:
        """z even on the circle and z' of von Mises's density: kappa A(kappa) - log I0(kappa), A = I1 / I0."""
        z = circle(64)
        first, second = z.repeat_interleave(64, 0), z.repeat(64, 1)
        weights = (kappa * (first * second).sum(1)).exp()
        marginal = rp.DatasetMarginal(first, second, weights=weights)
        model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(directions(2, kappa)), marginal=marginal)
        mean_cosine = float(i1e(kappa) / i0e(kappa))
        bound = model.eval().elbo(first, second)
        assert float(bound) == pytest.approx(kappa * mean_cosine - log_i0(kappa), abs=1e-10)
        bound.value.backward()
        parameter = model.prior.coupling.tenth_log_concentration
        assert float(parameter.grad) == pytest.approx(0, abs=1e-10)
        with torch.no_grad():
            parameter += 0.02
        other = float(model.prior.coupling.concentration.detach())
        parameter.grad = None
        model.elbo(first, second).value.backward()
        slope = mean_cosine - float(i1e(other) / i0e(other))  # of the ELBO in kappa
        assert float(parameter.grad) == pytest.approx(10 * other * slope, abs=1e-10)

    def test_it_is_groups_of_von_mises_fisher_couplings(self) -> None:
        z, z_prime = torch.randn(2, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        groups = rp.Groups(rp.VonMisesFisher(3, concentration=2.5), [[0, 1, 2], [3, 4, 5]]).double()
        same = [rp.InfoNCEPrior(f).log_ratio(z, z_prime) for f in (directions(6, 2.5, 2.5), groups)]
        assert torch.allclose(*same, atol=1e-6)

    def test_the_sides_bound_the_elbo_in_expectation(self) -> None:
        generator, model = (
            torch.Generator().manual_seed(0),
            rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(directions(2, 6.0))).eval(),
        )
        candidates = circle(512)
        truth = 6 * i1e(6.0) / i0e(6.0) - log_i0(6)
        values: dict[str, list[float]] = {"upper": [], "lower": []}
        for _ in range(30):
            z = candidates[torch.randint(512, (64,), generator=generator)]
            after = torch.multinomial((6 * z @ candidates.T).softmax(1), 1, generator=generator)[:, 0]
            for side, found in values.items():
                bound = model.elbo(z, candidates[after], side=side)
                assert bound.kind == side
                found.append(float(bound))
        upper, lower = (torch.tensor(found) for found in values.values())
        assert upper.mean() > truth - 3 * upper.std() / 30**0.5
        assert lower.mean() < truth + 3 * lower.std() / 30**0.5
        assert lower.mean() < upper.mean() and (upper.mean() - truth).abs() < 0.05


class TestDirections:
    def test_each_concentration_starts_at_the_median_distance_on_its_own_circle(self) -> None:
        generator = torch.Generator().manual_seed(0)
        wide, narrow = (s * torch.randn(2, 400, generator=generator) for s in (9.0, 0.05))
        z, z_prime = (torch.stack([a.cos(), a.sin(), b.cos(), b.sin()], 1) for a, b in zip(wide, narrow, strict=True))
        coupling = rp.Directions(4, width=2)
        assert not coupling.initialised and "takes its concentration" in repr(coupling)
        with pytest.raises(UninitialisedError, match="concentration is set.*or give concentration="):
            coupling.eval()(z, z_prime)
        coupling.initialise(3 * z, 0.1 * z_prime)  # lengths say nothing
        for kappa, rbf_of in zip(coupling.concentration.detach(), ([0, 1], [2, 3]), strict=True):
            rbf = rp.GaussianRBF()
            rbf.initialise(z[:, rbf_of], z_prime[:, rbf_of])
            assert float(kappa) == pytest.approx(float(rbf.lengthscale.detach()) ** -2, rel=1e-3)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"dim": 1}, "width"),
            ({"dim": 5, "width": 2}, "dim as a multiple of width=2"),
            ({"dim": 2, "concentration": -1.0}, "concentration"),
        ],
    )
    def test_what_has_no_meaning_is_an_error(self, arguments: dict[str, float], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            rp.Directions(**arguments)


class TestOnSphere:
    def test_outputs_surround_the_origin_from_the_first_training_batch_on(self) -> None:
        generator = torch.Generator().manual_seed(0)
        net = OnSphere(nn.Identity(), features=4, width=2)
        x = 50 + torch.randn(200, 4, generator=generator) * torch.tensor([1.0, 2, 3, 4])
        assert torch.allclose(net.eval()(x)[:, :2].norm(dim=1), torch.ones(200))
        assert net.eval()(x).std(0).max() < 0.1 and not net.initialised_flag  # an arc; evaluating sets nothing
        net.train()(x[:20])
        assert not net.initialised_flag  # too few rows
        z = net.train()(x)
        assert net.initialised_flag and float(z.mean(0).abs().max()) < 0.1
        inner = (x - net.centre) @ net.whitening
        assert torch.allclose(inner.T.cov(correction=0), torch.eye(4), atol=1e-4)
        again = net.train()(2 * x)
        assert torch.allclose(again, net.eval()(2 * x)) and torch.allclose(net(x), z)

    def test_the_model_s_initialise_sets_the_coupling_from_such_outputs(self) -> None:
        x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        net = OnSphere(nn.Linear(3, 2), features=2, width=2)
        model = rp.RPM(rp.Deterministic(net), rp.InfoNCEPrior(rp.Directions(2))).train()
        model.initialise(x[:50], x[50:])
        assert float(model.prior.coupling.concentration.detach()) == pytest.approx(0.5, abs=0.15)

    def test_outputs_that_do_not_vary_in_a_direction_keep_their_scale_there(self) -> None:
        x = torch.randn(100, 1, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0, 1.0]])
        z = OnSphere(nn.Identity(), features=2, width=2).train()(x)
        assert bool(z.isfinite().all())

    def test_features_that_make_no_whole_spheres_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="multiple of width=2"):
            OnSphere(nn.Identity(), features=3, width=2)


def ring(seed: int, *, rows: int = 1500, angles: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Square roots of counts of 12 cells for each angle, whose preferred directions are even, and the angles."""
    rng = np.random.default_rng(seed)
    angle = np.cumsum(0.25 * rng.normal(size=(rows, angles)), axis=0)
    preferred = np.linspace(-np.pi, np.pi, 12, endpoint=False)
    rate = 6 * np.exp(3 * (np.cos(angle[..., None] - preferred) - 1))
    return np.sqrt(rng.poisson(rate)).reshape(rows, -1).astype(np.float32), angle


X, ANGLE = ring(0)


@pytest.fixture(scope="module")
def fitted() -> rp.RPMEstimator:
    return quick(prior="circle", max_steps=120, dropout=0.3).fit(X[:1100])


def lengths(z: np.ndarray, width: int = 2) -> np.ndarray:
    return np.linalg.norm(z.reshape(len(z), -1, width), axis=-1)


class TestEstimator:
    def test_the_angle_is_found_without_a_decoder(self, fitted: rp.RPMEstimator) -> None:
        untrained = quick(prior="circle", max_steps=1, learning_rate=1e-9).fit(X[:1100])
        after, before = (
            angle_error(e.transform(X[:1100]), ANGLE[:1100], e.transform(X[1100:]), ANGLE[1100:])
            for e in (fitted, untrained)
        )
        assert after.median[0] < 9 < before.median[0] < after.chance[0]

    def test_latents_predictions_samples_and_the_bank_are_on_the_circle(self, fitted: rp.RPMEstimator) -> None:
        z, z_prime = fitted.sample(50, random_state=0)
        for points in (fitted.transform(X), fitted.predict_next(X), z, z_prime, fitted.next_over_bank(z)[0]):
            assert np.allclose(lengths(points), 1, atol=1e-5)
        candidates, probability = fitted.next_over_bank(fitted.transform(X[:9]))
        mean = probability @ candidates
        assert np.allclose(fitted.predict_next(X[:9]), mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-4)

    def test_it_says_what_it_is(self, fitted: rp.RPMEstimator) -> None:
        assert "prior    circle: P(z'|z) = R(z') exp(kappa cos(angle from z to z')) / Z(z)" in fitted.describe()
        assert "latents  2, points on a circle\n" in fitted.describe()
        kappa = float(fitted.prior_.coupling.concentration.detach())
        assert fitted.prior_.formula().endswith(f"log f(z, z') = {kappa:.3g} cos(z, z')")
        assert kappa > 3

    def test_saved_and_exported_it_gives_the_same_latents(self, fitted: rp.RPMEstimator, tmp_path: Path) -> None:
        fitted.save(tmp_path / "model")
        loaded = rp.RPMEstimator.load(tmp_path / "model")
        assert np.array_equal(loaded.transform(X), fitted.transform(X))
        assert float(loaded.elbo(X[1100:])) == float(fitted.elbo(X[1100:]))
        assert loaded.describe() == fitted.describe()
        rows = torch.from_numpy(X)
        dynamic = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(fitted.encoder_, (rows[:2],), dynamic_shapes=dynamic)
        assert np.allclose(program.module()(rows).detach().numpy(), fitted.transform(X), atol=1e-6)

    @quiet
    def test_evidence_compares_with_that_of_other_priors(self, fitted: rp.RPMEstimator) -> None:
        gaussian = quick(prior="gaussian", max_steps=100).fit(X[:1100])
        found = rp.compare({"circle": fitted, "gaussian": gaussian}, X[1100:])
        assert "circle" in found.table() and len(found.differences) == 1

    @quiet
    @pytest.mark.parametrize(
        ("prior", "dim", "width", "text"), [("torus", 4, 2, "2 circles"), ("sphere", 3, 3, "a sphere")]
    )
    def test_a_torus_and_a_sphere(self, prior: str, dim: int, width: int, text: str) -> None:
        est = quick(prior=prior, latent_dim=dim, max_steps=20).fit(ring(1, rows=400, angles=2)[0])
        z = est.transform(ring(1, rows=400, angles=2)[0])
        assert np.allclose(lengths(z, width), 1, atol=1e-5)
        assert f"points on {text}" in est.describe()
        assert est.prior_.coupling.concentration.shape == (dim // width,)

    @pytest.mark.parametrize(
        ("prior", "dim", "words"),
        [
            ("circle", 1, "Expected latent_dim=2 with prior='circle'.*got 1"),
            ("circle", 3, "got 3. Use latent_dim=2, or prior='sphere'"),
            ("circle", 4, "got 4. Use latent_dim=2, or prior='torus'"),
            ("torus", 3, "Expected an even latent_dim with prior='torus'.*got 3. Use latent_dim=4 for 2 circle"),
            ("sphere", 2, "Expected latent_dim >= 3 with prior='sphere'.*got 2. Use latent_dim=3, or prior='circle'"),
        ],
    )
    def test_other_numbers_of_latents_are_errors(self, prior: str, dim: int, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            quick(prior=prior, latent_dim=dim).fit(X)

    @quiet
    def test_custom_encoders_end_on_the_circle_too(self, tmp_path: Path) -> None:
        own = Standardised(nn.Linear(12, 2), mean=torch.zeros(12), scale=torch.ones(12))
        for encoder in (nn.Linear(12, 2), own):
            est = quick(prior="circle", encoder=encoder, max_steps=5).fit(X[:300])
            assert np.allclose(lengths(est.transform(X)), 1, atol=1e-5)
            est.save(tmp_path / "custom")
            loaded = rp.RPMEstimator.load(tmp_path / "custom", encoder=encoder)
            assert np.array_equal(loaded.transform(X), est.transform(X))
        frames = np.random.default_rng(0).integers(0, 255, size=(60, 16, 16, 1), dtype=np.uint8)
        with pytest.raises(ValueError, match="places in pixels"):
            quick(prior="circle", encoder="centre-of-mass").fit(frames)

    @quiet
    def test_a_prior_given_as_an_object_is_treated_as_that_of_the_name(self) -> None:
        given, named = (quick(prior=p, max_steps=5).fit(X[:300]) for p in (rp.InfoNCEPrior(rp.Directions(2)), "circle"))
        assert np.array_equal(given.transform(X), named.transform(X))
        assert "points on a circle" in given.describe()

    @quiet
    def test_two_modalities_own_channels_and_missing_values(self) -> None:
        two = quick(prior="circle", max_steps=5).fit(X[:300], X_prime=X[:300, :7])
        assert np.allclose(lengths(two.transform(X[:50, :7], side="x_prime")), 1, atol=1e-5)
        recording = own_channels([X[:200], X[200:400, :5]])
        both = quick(prior="circle", max_steps=5).fit(recording, pairs=nearest(recording, ANGLE[:400], neighbours=5))
        assert np.allclose(lengths(both.transform(recording)), 1, atol=1e-5)
        holes = X[:300].copy()
        holes[::7, 3] = np.nan
        masked = Recording.of(np.nan_to_num(holes), mask=~np.isnan(holes))
        assert np.allclose(lengths(quick(prior="circle", max_steps=5).fit(masked).transform(masked)), 1, atol=1e-5)

    @quiet
    def test_the_command_line_takes_its_name(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        np.save(tmp_path / "rows.npy", X[:300])
        words = ["--prior", "circle", "--max-steps", "10", "--restarts", "1", "--accelerator", "cpu"]
        rows, run, latents = (str(tmp_path / name) for name in ("rows.npy", "run", "z.npz"))
        assert main(["fit", rows, "--out", run, *words]) == 0
        assert main(["transform", run, rows, "-o", latents]) == 0
        with np.load(latents) as written:
            assert np.allclose(lengths(written["z"]), 1, atol=1e-5)
        assert "circle" in capsys.readouterr().out


def test_a_torus_is_drawn_by_its_angles_and_lines_do_not_cross_the_picture() -> None:
    angle = np.random.default_rng(0).uniform(-np.pi, np.pi, size=(200, 2))
    torus = np.stack([np.cos(angle), np.sin(angle)], -1).reshape(200, 4)
    figure = draw_prediction(torus, np.full((2, 200), 1 / 200), z=torus[:2], following=torus[2:4])
    assert np.allclose(figure.axes[0].collections[0].get_offsets(), np.degrees(angle))
    assert figure.axes[0].get_xlabel() == "angle 1, degrees"
    prior = rp.InfoNCEPrior(rp.Directions(4, width=2, concentration=5.0))
    drawn = rp.draw_prior(prior, torch.from_numpy(torus), steps=40)
    for ax in drawn.axes[3:]:
        steps = np.diff(ax.lines[0].get_xydata(), axis=0)
        assert np.nanmax(np.abs(steps)) <= 180
        assert np.isfinite(steps).any()
    four = np.random.default_rng(0).normal(size=(50, 4))
    assert draw_prediction(four, np.full((1, 50), 0.02), z=four[:1], following=four[1:2]).axes[0].get_xlabel() == "PC 1"
