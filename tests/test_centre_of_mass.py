"""The fused centre-of-mass step against the same step in torch operations, in float64 and in float32."""

import copy

import pytest
import torch
import torch.nn.utils.prune
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import recparam.networks.centre_of_mass as network
from recparam.networks import CentreOfMassCNN
from recparam.networks.fused import step as module
from recparam.networks.fused.step import (
    conv_centre_of_mass,
    conv_centre_of_mass_reference,
    fused_available,
    why_unavailable,
)

needs_compiler = pytest.mark.skipif(not fused_available(), reason=f"no fused path: {why_unavailable()}")
NAMES = ("weight1", "bias1", "gamma1", "beta1", "weight2", "bias2", "gamma2", "beta2")


def problem(batch, channels, hidden, maps, height, width, seed=0):
    """uint8 frames, float32 parameters and an upstream gradient."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    frames = torch.randint(256, (batch, channels, height, width), generator=generator, dtype=torch.uint8)
    parameters = []
    for outs, ins in ((hidden, channels), (maps, hidden)):
        parameters += [
            0.3 * normal(outs, ins, 3, 3),
            normal(outs),
            1 + 0.2 * normal(outs),
            0.2 * normal(outs),
        ]
    return frames, parameters, normal(batch, 2 * maps)


def evaluate(function, frames, parameters, upstream, dtype=torch.float32):
    """All outputs and all gradients, as float64."""
    parameters = [p.to(dtype).requires_grad_() for p in (q.clone() for q in parameters)]
    outputs = function(frames if frames.dtype == torch.uint8 else frames.to(dtype), *parameters)
    (outputs[0] * upstream.to(dtype)).sum().backward()
    return [o.detach().double() for o in outputs], [p.grad.double() for p in parameters]


def error(found, exact):
    return float((found - exact).norm() / exact.norm())


def compare(frames, parameters, upstream):
    """Outputs to 1e-5; gradients to 1e-4 and within twice eager's error, or 1e-5."""
    outputs, gradients = evaluate(conv_centre_of_mass, frames, parameters, upstream)
    reference = conv_centre_of_mass_reference
    exact, exact_gradients = evaluate(reference, frames, parameters, upstream, torch.float64)
    _, eager_gradients = evaluate(reference, frames, parameters, upstream)
    assert outputs[0].shape == (len(frames), 2 * len(parameters[4]))
    for found, value in zip(outputs, exact, strict=True):
        assert error(found, value) <= 1e-5
    for name, found, value, eager in zip(NAMES, gradients, exact_gradients, eager_gradients, strict=True):
        if name.startswith("bias"):
            assert not found.any()
        else:
            assert error(found, value) <= min(1e-4, max(1e-5, 2 * error(eager, value))), name


@needs_compiler
@pytest.mark.parametrize(
    ("batch", "channels", "hidden", "maps", "height", "width"),
    [
        (2, 3, 6, 3, 3, 5),
        (1, 3, 6, 3, 17, 33),
        (3, 3, 6, 3, 64, 64),
        (5, 2, 5, 1, 1, 7),
        (7, 2, 5, 2, 8, 1),
        (2, 4, 7, 5, 9, 2),
        (3, 1, 13, 4, 10, 70),
        (4, 1, 1, 1, 2, 2),
    ],
)
@pytest.mark.parametrize("floating", [True, False])
def test_equals_reference(batch, channels, hidden, maps, height, width, floating):
    frames, parameters, upstream = problem(batch, channels, hidden, maps, height, width)
    compare(frames / 255 if floating else frames, parameters, upstream)


@needs_compiler
@pytest.mark.parametrize("kind", ["black", "low contrast", "large offset"])
def test_equals_reference_on_hard_frames(kind):
    frames, parameters, upstream = problem(4, 3, 6, 3, 40, 40)
    if kind == "black":  # a small square moves on black
        frames = torch.zeros(4, 3, 40, 40)
        for i in range(4):
            for c in range(3):
                frames[i, c, 5 * i + c : 5 * i + c + 6, 30 - 9 * c : 36 - 9 * c] = 1
    elif kind == "low contrast":
        frames = 0.5 + 1e-3 * frames / 255
    else:
        frames = 20 + frames / 255
    compare(frames, parameters, upstream)


@needs_compiler
@pytest.mark.parametrize("floating", [True, False])
@pytest.mark.parametrize(
    ("batch", "height", "width"), [(3, 64, 64), (1, 17, 33), (2, 1, 7), (5, 8, 1), (1, 1, 1), (2, 10, 300)]
)
def test_evaluation_equals_plain_layers_in_float64(batch, height, width, floating, calls):
    frames, parameters, _ = problem(batch, 3, 6, 3, height, width)
    frames = frames / 255 if floating else frames
    torch.manual_seed(1)
    net = CentreOfMassCNN(fused=False)
    for name, value in zip(NAMES, parameters, strict=True):
        layer = {"weight": "conv", "bias": "conv", "gamma": "norm", "beta": "norm"}[name[:-1]] + name[-1]
        net.get_submodule(layer).get_parameter("weight" if name[0] in "wg" else "bias").data.copy_(value)
    for norm in (net.norm1, net.norm2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 3)
    net.eval()
    exact = copy.deepcopy(net).double()(frames if not floating else frames.double())
    net.fused = None
    assert net(frames).requires_grad  # gradients are the plain layers'
    with torch.no_grad():
        found, kept = net(frames), [norm.running_mean.clone() for norm in (net.norm1, net.norm2)]
    assert calls == [tuple(frames.shape)]
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    assert not found.requires_grad
    for norm, before in zip((net.norm1, net.norm2), kept, strict=True):
        assert torch.equal(norm.running_mean, before)
    statistics = (kept[0], net.norm1.running_var, kept[1], net.norm2.running_var)
    of_reference = conv_centre_of_mass_reference(frames, *parameters, statistics=statistics)
    torch.testing.assert_close(of_reference[0].double(), exact, rtol=1e-4, atol=1e-4)
    assert of_reference[1:] == statistics
    with pytest.raises(ValueError, match=r"var1 of shape \(6,\); got \(3,\)"):
        module._check(frames, tuple(parameters), (kept[0], torch.ones(3), *statistics[2:]))


@needs_compiler
@pytest.mark.filterwarnings("ignore")
def test_tracing_and_norms_without_statistics_take_the_plain_layers():
    frames = torch.rand(4, 3, 12, 12)
    net = CentreOfMassCNN().eval()
    with torch.no_grad():
        traced = torch.jit.trace(net, frames)
        torch.testing.assert_close(traced(1 - frames), net(1 - frames))
        for norm in (net.norm1, net.norm2):
            norm.running_mean = norm.running_var = None
        of_batch = net(frames)
    torch.testing.assert_close(of_batch, net.train()(frames), rtol=0, atol=1e-3)


@pytest.fixture
def calls(monkeypatch):
    """The shapes of the frames that the fused step was given."""
    seen = []

    def noted(frames, *rest, **named):
        seen.append(tuple(frames.shape))
        return conv_centre_of_mass(frames, *rest, **named)

    monkeypatch.setattr(network, "conv_centre_of_mass", noted)
    return seen


def hooked(net):
    net.norm2.register_forward_hook(lambda layer, inputs, output: output + 3)


def pre_hooked(net):
    net.conv1.register_forward_pre_hook(lambda layer, inputs: (inputs[0] * 2,))


def strided(net):
    net.conv1 = torch.nn.Conv2d(3, 6, 3, padding=1, stride=2)


def reflecting(net):
    net.conv2 = torch.nn.Conv2d(6, 3, 3, padding=1, padding_mode="reflect")


def wide(net):
    net.conv1 = torch.nn.Conv2d(3, 6, 5, padding=2)


def plain_norm(net):
    net.norm1 = torch.nn.BatchNorm2d(6, affine=False)


def without_bias(net):
    net.conv2.bias = None


def instances(net):
    net.norm1 = torch.nn.InstanceNorm2d(6, affine=True, track_running_stats=True)


def pruned(net):
    torch.nn.utils.prune.random_unstructured(net.conv1, "weight", 0.5)
    net.conv1.weight_orig.data.mul_(2)  # the layer computes its weight when it is called


@needs_compiler
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "change", [hooked, pre_hooked, strided, reflecting, wide, plain_norm, without_bias, instances, pruned]
)
def test_other_layers_and_hooks_are_called(change, training, calls):
    torch.manual_seed(0)
    net, frames = CentreOfMassCNN(), torch.rand(3, 3, 12, 12)
    net(frames)
    change(net)
    net.train(training)
    calls.clear()
    with torch.no_grad():
        found = net(frames)
        net.fused = False
        torch.testing.assert_close(found, net(frames), rtol=0, atol=0)
    assert not calls


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # torch's own, of its forward mode
def test_who_needs_to_see_the_operations_gets_the_plain_layers(calls):
    frames, tangent = torch.rand(4, 3, 12, 12), torch.rand(4, 3, 12, 12)
    net = CentreOfMassCNN().eval().requires_grad_(False)
    plain = copy.deepcopy(net)
    plain.fused = False
    net(frames)
    assert calls == [(4, 3, 12, 12)]
    calls.clear()
    each = torch.vmap(lambda frame: net(frame[None])[0])(frames)
    torch.testing.assert_close(each, plain(frames), rtol=0, atol=1e-4)
    found, expected = (torch.func.jvp(model, (frames,), (tangent,)) for model in (net, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with forward_ad.dual_level():
        dual = [forward_ad.unpack_dual(model(forward_ad.make_dual(frames, tangent))).tangent for model in (net, plain)]
    assert dual[0] is not None
    torch.testing.assert_close(dual[0], dual[1], rtol=0, atol=0)
    with torch.no_grad():
        graph = make_fx(net)(frames)
    torch.testing.assert_close(graph(1 - frames), plain(1 - frames), rtol=0, atol=1e-4)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for training in (True, False):
            assert CentreOfMassCNN().train(training)(torch.rand(2, 3, 8, 8)).shape == (2, 6)
    weight = torch.nn.Parameter(net.conv1.weight.clone())
    del net.conv1.weight
    net.conv1.weight = weight * 1  # of a network that makes weights
    assert net(frames).requires_grad and not calls
    net.conv1.weight = weight.detach()
    net.norm1.running_mean = net.norm1.running_mean.double()
    with pytest.raises(RuntimeError, match="(?i)mixed|expect|same|type"):  # torch's own words, as of the layers
        net(frames)


@needs_compiler
def test_a_single_pixel_image_sits_at_its_pixel():
    frames, parameters, _ = problem(4, 3, 6, 3, 1, 1)
    assert torch.equal(conv_centre_of_mass(frames, *parameters)[0], torch.zeros(4, 6))


@needs_compiler
def test_a_bright_pixel_is_found_where_it_is():
    frames = torch.zeros(1, 1, 31, 47)
    frames[0, 0, 20, 40] = 1
    delta = torch.zeros(1, 1, 3, 3)
    delta[..., 1, 1] = 1
    one, zero, low = torch.ones(1), torch.zeros(1), torch.full((1,), -30.0)
    centres = conv_centre_of_mass(frames, delta, zero, one, zero, delta, zero, one, low)[0]
    torch.testing.assert_close(centres, torch.tensor([[40.0, 20.0]]), rtol=1e-4, atol=1e-3)


@needs_compiler
def test_threads_do_not_change_the_numbers():
    frames, parameters, upstream = problem(5, 3, 6, 3, 20, 21)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 8):
            torch.set_num_threads(count)
            found.append(evaluate(conv_centre_of_mass, frames, parameters, upstream))
    finally:
        torch.set_num_threads(threads)
    for outputs, gradients in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outputs + gradients, sum(found[0], []), strict=True))


@needs_compiler
def test_nan_is_not_hidden():
    frames, parameters, _ = problem(2, 3, 6, 3, 16, 16)
    frames = frames / 255
    frames[1, 0, 3, 4] = torch.nan
    assert conv_centre_of_mass(frames, *parameters)[0].isnan().all()


@needs_compiler
def test_running_statistics_are_detached_and_eps_is_used():
    frames, parameters, _ = problem(2, 3, 6, 3, 16, 16)
    parameters = [p.requires_grad_() for p in parameters]
    outputs = conv_centre_of_mass(frames, *parameters, eps1=0.5, eps2=2.0)
    expected = conv_centre_of_mass_reference(frames, *parameters, eps1=0.5, eps2=2.0)
    assert [o.requires_grad for o in outputs] == [True, False, False, False, False]
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, p: (f[0], p), "Expected frames"),
        (lambda f, p: (f.long(), p), "float32 or uint8"),
        (lambda f, p: (f.transpose(2, 3), p), "contiguous"),
        (lambda f, p: ((f / 255).requires_grad_(), p), "no gradient"),
        (lambda f, p: (f[:1, :, :1, :1].contiguous(), p), "more than 1 pixel"),
        (lambda f, p: (f, [p[0].double(), *p[1:]]), "weight1 of dtype float32"),
        (lambda f, p: (f, [*p[:4], p[4][:, :2], *p[5:]]), "weight2 of shape"),
    ],
)
def test_bad_input_is_named(change, words):
    frames, parameters, _ = problem(2, 3, 6, 3, 8, 9)
    frames, parameters = change(frames, parameters)
    with pytest.raises(ValueError, match=words):  # asked here, since the tests' type checker would speak first
        module._check(frames, tuple(parameters))


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("CC", "/nonexistent/cc")
    module._build.cache_clear()
    try:
        assert not fused_available()
        assert "/nonexistent/cc" in why_unavailable()
        frames, parameters, _ = problem(2, 3, 6, 3, 8, 8)
        with pytest.raises(RuntimeError, match="needs a C compiler"):
            conv_centre_of_mass(frames, *parameters)
    finally:
        module._build.cache_clear()


@needs_compiler
def test_compiles_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []
    try:
        for _ in range(2):
            module._build.cache_clear()
            assert fused_available()
            made.append([(p.name, p.stat().st_mtime_ns) for p in (tmp_path / "recparam").iterdir()])
    finally:
        module._build.cache_clear()
    assert len(made[0]) == 1
    assert made[0] == made[1]
