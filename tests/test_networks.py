"""Encoders: centres of mass in pixels, frame layouts, the fused step against plain PyTorch, batch norm."""

import copy

import pytest
import torch
from torch import nn

import recparam as rp
from recparam.experiments.balls.videos import moving_balls
from recparam.networks import MLP, CentreOfMassCNN, recalibrate_batch_norm
from recparam.networks.fused.step import fused_available


def frames(count=6, height=12, width=20, channels=3):
    return torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8)


def test_output_is_the_centre_of_mass_of_the_maps():
    net = CentreOfMassCNN(fused=False).double().eval()
    x = torch.rand(4, 3, 9, 14, dtype=torch.float64)
    m = net.maps(x)
    assert m.shape == (4, 3, 9, 14)
    assert ((m > 0) & (m < 1)).all()
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(14.0), indexing="ij")
    mass = m.sum((2, 3))
    expected = torch.stack([(m * columns).sum((2, 3)) / mass, (m * rows).sum((2, 3)) / mass], 2)
    torch.testing.assert_close(net(x), expected.flatten(1), rtol=0, atol=1e-12)


def test_reads_a_ball_at_its_true_centre():
    # A network made by hand that looks at one colour per map; its maps have hard edges,
    # which cost a tenth of a pixel.
    video = moving_balls(20, size=64, diameter=12, seed=4)
    net = CentreOfMassCNN().eval()
    with torch.no_grad():
        for conv in (net.conv1, net.conv2):
            conv.weight.zero_()
            conv.bias.zero_()
        for k in range(3):
            net.conv1.weight[k, k, 1, 1] = 1.0
            net.conv2.weight[k, k, 1, 1] = 60.0
        net.conv2.bias.fill_(-30.0)
        found = net(torch.from_numpy(video.frames)).reshape(20, 3, 2)
    torch.testing.assert_close(found, torch.from_numpy(video.centres).float(), rtol=0, atol=0.2)


@pytest.mark.parametrize("fused", [False, None])
@pytest.mark.parametrize("training", [True, False])
def test_layouts_and_bytes_agree(fused, training):
    net = CentreOfMassCNN(fused=fused).train(training)
    last = frames()
    first = last.permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = net(first.contiguous().float() / 255)
        for x in (last, first, first.contiguous(), last.float() / 255):
            torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)
    # A square of 3 channels is ambiguous and taken as channels first.
    x = torch.rand(2, 3, 5, 3)
    assert net.maps(x).shape == (2, 3, 5, 3)


def test_latent_dim_and_every_parameter_matters():
    net = CentreOfMassCNN(in_channels=1, maps=2, hidden=4, fused=False).double().eval()
    z = net(torch.rand(5, 1, 8, 8, dtype=torch.float64))
    assert z.shape == (5, net.latent_dim) == (5, 4)
    z.var(0).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.skipif(not fused_available(), reason="no C compiler for the fused step")
def test_fused_step_is_the_plain_step():
    plain = CentreOfMassCNN(fused=False)
    fused = copy.deepcopy(plain)
    fused.fused = True
    x = frames(8, 32, 24)
    target = torch.randn(8, 6)
    for _ in range(3):
        for net in (plain, fused):
            net.zero_grad()
            (net(x) * target).sum().backward()
    torch.testing.assert_close(fused(x), plain(x), rtol=0, atol=1e-3)
    for name, parameter in plain.named_parameters():
        # Biases in front of a batch norm have no effect: zero in one, rounding in the other.
        torch.testing.assert_close(fused.get_parameter(name).grad, parameter.grad, rtol=2e-3, atol=2e-3)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(fused.get_buffer(name), buffer, rtol=1e-4, atol=1e-6)
    # In evaluation mode both use the running statistics.
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x), rtol=0, atol=1e-3)


@pytest.mark.skipif(not fused_available(), reason="no C compiler for the fused step")
def test_training_curves_of_both_paths_agree_over_an_epoch():
    video = torch.as_tensor(moving_balls(129, size=24, diameter=4.0, background="clutter", seed=0).frames)
    torch.manual_seed(0)
    start, batches = CentreOfMassCNN(fused=False), torch.randperm(128).split(16)
    bounds = []
    for fused in (False, True):
        encoder = copy.deepcopy(start)
        encoder.fused = fused
        model = rp.RPM(rp.Deterministic(encoder), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        bounds.append([])
        for rows in batches:
            optimiser.zero_grad()
            bound = model.elbo(video[rows], video[rows + 1])
            (-bound.value).backward()
            optimiser.step()
            bounds[-1].append(float(bound))
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-4)
    assert bounds[0][-1] > bounds[0][0] + 0.05  # something was learned


@pytest.mark.skipif(not fused_available(), reason="no C compiler for the fused step")
def test_fused_step_is_left_where_it_does_not_apply():
    x = torch.rand(4, 3, 8, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="fused=None"):
        CentreOfMassCNN(fused=True)(x)
    CentreOfMassCNN()(x).sum().backward()
    assert x.grad is not None
    with pytest.raises(RuntimeError, match="float32"):
        CentreOfMassCNN(fused=True).double()(x.detach())
    assert CentreOfMassCNN().double()(x.detach()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert CentreOfMassCNN()(x.detach()).isfinite().all()


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.rand(3, 8, 8), "got \\(3, 8, 8\\)"),
        (torch.rand(2, 4, 8, 8), "in_channels=3"),
        (torch.rand(0, 3, 8, 8), "got \\(0, 3, 8, 8\\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "torch.int64"),
    ],
)
def test_bad_frames_are_refused(x, words):
    for method in (CentreOfMassCNN(), CentreOfMassCNN().maps):
        with pytest.raises(ValueError, match=words):
            method(x)


@pytest.mark.parametrize("name", ["in_channels", "maps", "hidden"])
def test_counts_must_be_positive(name):
    with pytest.raises(ValueError, match=name):
        CentreOfMassCNN(**{name: 0})


@pytest.mark.parametrize("fused", [False, None])
def test_recalibrated_statistics_are_the_average_over_batches(fused):
    net = CentreOfMassCNN(fused=fused)
    net.conv2.bias.data.fill_(0.3)
    batches = [frames(5) for _ in range(4)]
    net(batches[0])
    before = copy.deepcopy(net.state_dict())
    net.norm1.eval()  # a mixture of modes must survive
    recalibrate_batch_norm(net, batches)
    assert (net.training, net.norm1.training, net.norm2.training) == (True, False, True)
    assert net.norm1.momentum == net.norm2.momentum == 0.1
    outputs = torch.stack([net.conv1(b.permute(0, 3, 1, 2).float() / 255) for b in batches])
    torch.testing.assert_close(net.norm1.running_mean, outputs.mean((0, 1, 3, 4)), rtol=1e-4, atol=1e-5)
    variance = torch.stack([o.transpose(0, 1).flatten(1).var(1) for o in outputs]).mean(0)
    torch.testing.assert_close(net.norm1.running_var, variance, rtol=1e-4, atol=1e-6)
    assert int(net.norm1.num_batches_tracked) == 4
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0)
    # Once more gives the same: nothing of the past is left in it.
    once = copy.deepcopy(net.state_dict())
    recalibrate_batch_norm(net, batches)
    for name, buffer in net.named_buffers():
        torch.testing.assert_close(buffer, once[name], rtol=0, atol=0)


def test_recalibration_ignores_dropout_and_restores_after_an_error():
    net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(2))
    x = torch.randn(50, 2)
    recalibrate_batch_norm(net, [x])
    torch.testing.assert_close(net[1].running_mean, x.mean(0))
    kept = copy.deepcopy(net.state_dict())

    def failing():
        yield x + 5
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recalibrate_batch_norm(net, failing())
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate_batch_norm(net, [])
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, kept[name], rtol=0, atol=0)
    assert net[1].momentum == 0.1
    assert net[0].training and net[1].training
    recalibrate_batch_norm(nn.Linear(2, 2), [])  # nothing to recalibrate


def test_mlp():
    net = MLP(5, 2, hidden=(7, 3), activation=nn.Tanh)
    assert [type(layer) for layer in net.layers] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert net(torch.rand(4, 5)).shape == (4, net.latent_dim) == (4, 2)
    linear = MLP(3, 2, hidden=())
    x = torch.rand(6, 3)
    torch.testing.assert_close(linear(x + x) - linear(x), linear(x) - linear(0 * x))
    with pytest.raises(ValueError, match=r"hidden\[1\]"):
        MLP(3, 2, hidden=(4, 0))
    with pytest.raises(ValueError, match="out_features"):
        MLP(3, -2)
    with pytest.raises(ValueError, match=r"\(B, 5\)"):
        net(torch.rand(4, 6))
