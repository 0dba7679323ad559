"""What every path distribution must fulfil."""

import math
from collections.abc import Callable

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyromodels.distributions.path import PathDistribution
from pyromodels.dynamics.latent_paths import LatentPaths


def check_path(path: PathDistribution) -> None:
    """Shapes, expansion, the two statements of the law, causality; the integral if T=2, D=1."""
    for test in path_checks(path):
        test(path)


def path_checks(path: PathDistribution) -> list[Callable[[PathDistribution], None]]:
    """Return the checks that a path must pass."""
    integrals = [check_path_normalised] if path.event_shape == (2, 1) else []
    return [check_path_shapes, check_path_noise, check_path_causality, *integrals]


def check_path_shapes(path: PathDistribution) -> None:
    """Sample shapes, values with more batch dims than the context, and `expand`."""
    batch, event = path.batch_shape, path.event_shape
    for more in ((), (5,), (5, 1, 1)):
        more = torch.Size(more)
        value = path.roll_out(path.noise(more))
        assert value.shape == more + batch + event, (value.shape, more, batch, event)
        given = path.conditionals(value)
        assert given.batch_shape == more + batch + event[:1], given.batch_shape
        assert given.event_shape == event[1:], given.event_shape
        assert path.log_prob(value).shape == more + batch
        if math.prod(more) > 1:
            one = value.reshape(-1, *batch, *event)[0]
            many = path.log_prob(value).reshape(-1, *batch)[0]
            torch.testing.assert_close(path.log_prob(one), many)
    wider = path.expand(torch.Size((4,)) + batch)
    assert type(wider) is type(path), "expand must keep the class: a wrapper hides conditionals"
    value = wider.roll_out(wider.noise())
    assert value.shape == (4, *batch, *event) and wider.log_prob(value).shape == (4, *batch)


def check_path_noise(path: PathDistribution) -> None:
    """`conditionals` of a rolled-out trajectory give back the noise that drove it, if one did."""
    noise = path.noise((3,))
    value = path.roll_out(noise)
    torch.testing.assert_close(path.roll_out(noise), value)
    if path.noise_is_unique:
        torch.testing.assert_close(path.noise_of(value), noise, rtol=1e-6, atol=1e-6)
    per_frame = path.conditionals(value).log_prob(value)
    if path.time_mask is None:
        torch.testing.assert_close(path.log_prob(value), per_frame.sum(-1))


def check_joint_draw(
    pair: LatentPaths,
    z: Tensor,  # shape: (*, T, L)
    s: Tensor,  # drawn together with z, shape: (*, T, D)
) -> tuple[Tensor, Tensor]:  # the noise of z and of s
    """The noise that the conditionals find in a joint draw is the noise that drives it."""
    pair.teach(s)
    noise = pair.latent.noise_of(z), pair.source(z).noise_of(s)
    rolled = pair.roll_out(*noise, z_is_known=False)
    torch.testing.assert_close(rolled.latent, z)
    torch.testing.assert_close(rolled.source, s)
    return noise


def check_path_causality(path: PathDistribution) -> None:
    """The Jacobian of p(v_t | v_<t) with respect to v_t' is exactly zero for t' >= t."""
    value = path.roll_out(path.noise()).detach()

    def law(v: Tensor) -> Tensor:  # (T,): the density of frame t at a point that does not move
        return path.conditionals(v).log_prob(value).movedim(-1, 0).flatten(1).sum(-1)

    jacobian = (
        torch.autograd.functional.jacobian(law, value).movedim(-2, 1).flatten(2)
    )  # (T, T, -1)
    for t in range(value.shape[-2]):
        assert not jacobian[t, t:].any(), f"frame {t} depends on itself or on later frames"


def check_path_normalised(path: PathDistribution) -> None:
    """The density of a path of two frames of one coordinate integrates, or sums, to one."""
    if path.time_mask is not None:
        return
    start = path.conditionals(path.roll_out(path.noise()))
    if start.has_enumerate_support:
        levels = start.levels.view(-1, *[1] * (len(path.batch_shape) + 2))
        first, second = torch.broadcast_tensors(levels.unsqueeze(0), levels.unsqueeze(1))
        total = path.log_prob(torch.cat((first, second), -2)).exp().sum((0, 1))
        torch.testing.assert_close(total, torch.ones_like(total))
        return
    mean, stddev = moments(start)
    if start.support.check(torch.full_like(mean, -1.0)).all():
        grid = torch.linspace(-9, 9, 181, dtype=torch.float64)  # deviations around the mean
        weight = torch.full_like(grid, 0.1)
    else:  # powers, whose mean is their deviation: from 0 on, dense there
        root = torch.linspace(0, 3.4, 341, dtype=torch.float64)
        grid, weight = root**3 - 1, 0.01 * 3 * root**2
    first = mean[..., :1, :] + stddev[..., :1, :] * grid.view(-1, *[1] * mean.dim())
    given = path.conditionals(torch.cat((first, first), -2))  # (grid, *batch, 2, 1)
    loc, scale = (v[..., 1:, :] for v in moments(given))
    second = loc + scale * grid.view(-1, *[1] * loc.dim())  # (grid, grid, *batch, 1, 1)
    value = torch.cat((first.expand_as(second), second), -2)
    density = path.log_prob(value).exp() * stddev[..., 0, 0] * scale[..., 0, 0]
    total = torch.einsum("ij...,i,j->...", density, weight, weight)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-6, atol=1e-6)


def moments(law: TorchDistribution) -> tuple[Tensor, Tensor]:
    """Mean and deviation of frames, from draws where the law has no formula for them."""
    try:
        return law.mean, law.stddev
    except NotImplementedError:
        draws = law.rsample(torch.Size([200])).detach()
        return draws.mean(0), draws.std(0)
