"""What every source prior must fulfil."""

from collections.abc import Callable
from functools import partial

import pyro
import torch
from pyro.infer import Predictive
from torch import Tensor

from pyromodels.distributions.flow import FlowDistribution
from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.distributions.path import PathDistribution
from pyromodels.dynamics.base import SourcePrior
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.dynamics.latent_paths import LatentPath
from pyromodels.pyro_support.plates import MAX_PLATE_NESTING
from pyromodels.testing.paths import check_joint_draw, check_path
from pyromodels.testing.runs import (
    BATCH,
    cancels,
    example_anchor,
    frames,
    in_plates,
    log_prob,
    of_frames,
    run_guide,
    run_prior,
    sites,
    start_of,
    starts_either_way,
    total_log_prob,
    values,
)
from pyromodels.testing.transform import check_inverse, check_log_det


def check_sites(prior: SourcePrior) -> None:
    """Shapes of the sites; the guide samples all that the model samples beside s."""
    for num_steps in (1, 2, 5):
        model = run_prior(prior, num_steps)
        s, length = sites(model)["s"], frames(prior, num_steps)
        assert s["value"].shape == (*BATCH, length, prior.source_dim), s["value"].shape
        for node in sites(model).values():
            if of_frames(node["value"]):
                assert node["fn"].event_shape[0] == length and node["fn"].event_dim == 2
            assert node["fn"].batch_shape == BATCH
        assert (len(sites(model)) > 1) == (prior.latent_dim > 0), "latent_dim: 0 without latents"
        guide = run_guide(prior, s["value"])
        assert set(sites(guide)) | {"s"} == set(sites(model))
        for name, node in sites(guide).items():
            assert node["value"].shape == sites(model)[name]["value"].shape
        assert total_log_prob(model).shape == BATCH


def check_paths(prior: SourcePrior) -> None:
    """Every path of model and guide keeps the contract of `PathDistribution`, or of flows."""
    for num_steps in (2, 5):
        model = run_prior(prior, num_steps)
        traces = [model, run_guide(prior, model.nodes["s"]["value"])]
        if starts_either_way(prior):
            traces.append(run_prior(prior, num_steps, own_start=True))
        for node in (node for trace in traces for node in sites(trace).values()):
            if isinstance(node["fn"], PathDistribution):
                check_path(node["fn"])
            elif isinstance(node["fn"], FlowDistribution) and num_steps == 2:
                node["fn"].log_prob(node["value"])  # a first batch, where it asks for one
                for check in (check_inverse, check_log_det):
                    check(node["fn"].transform, node["value"].detach())


def check_anchor(prior: SourcePrior) -> None:
    """An anchor takes the place of the prior's own p(s_1), and of nothing else."""
    if not starts_either_way(prior):
        return
    anchor, anchored = example_anchor(prior), run_prior(prior)
    own = run_prior(prior, own_start=True, data=values(anchored))
    s = anchored.nodes["s"]["value"]
    expected, by_frame = (
        trace.nodes["s"]["fn"].log_prob_by_frame(s) for trace in (own, anchored)
    )
    torch.testing.assert_close(by_frame[..., 1:], expected[..., 1:])
    first = torch.distributions.Normal(anchor.loc, anchor.variance.sqrt()).log_prob(s[..., 0, :])
    torch.testing.assert_close(by_frame[..., 0], first.sum(-1))
    latents = [
        {name: value for name, value in log_prob(trace).items() if name != "s"}
        for trace in (anchored, own)
    ]
    torch.testing.assert_close(*latents)


def check_coupling(prior: SourcePrior) -> None:
    """Coupled sites share one roll-out, which the noise read from their conditionals reproduces."""
    trace = run_prior(prior)
    for name, node in sites(trace).items():
        if not isinstance(node["fn"], LatentPath):
            continue
        pair, z, s = node["fn"].pair, node["value"], trace.nodes["s"]["value"]
        check_joint_draw(pair, z, s)
        source = trace.nodes["s"]["fn"]
        assert torch.equal(source.rsample(), s), "the source site must return the stored roll-out"
        other = run_prior(prior, data={name: z + 1.0})
        assert not torch.equal(other.nodes["s"]["value"], s), "a given z must drive s"
        assert torch.equal(other.nodes[name]["value"], z + 1.0)


def check_replay(prior: SourcePrior) -> None:
    """Densities are those of the values in the trace, whatever handler put them there."""
    first, second = run_prior(prior), run_prior(prior)
    data = values(first)
    replayed = run_prior(prior, data=data)
    expected = log_prob(first)
    for name, value in log_prob(replayed).items():
        torch.testing.assert_close(value, expected[name])
    only_s = run_prior(prior, data={"s": data["s"]})
    again = run_prior(prior, data=values(only_s))
    torch.testing.assert_close(total_log_prob(only_s), total_log_prob(again))
    assert not torch.allclose(total_log_prob(first), total_log_prob(second))


def check_particles(prior: SourcePrior) -> None:
    """Vectorised particles, extra dims on the left, equal one particle at a time."""
    with pyro.plate("particles", 4, dim=-MAX_PLATE_NESTING - 1):
        trace = run_prior(prior)
    together, data = total_log_prob(trace), values(trace)
    assert together.shape == (4, *BATCH)
    guide = run_guide(prior, data["s"])
    for i in range(4):
        one = run_prior(prior, data={name: value[i] for name, value in data.items()})
        torch.testing.assert_close(total_log_prob(one), together[i])
        q = run_guide(prior, data["s"][i], data={k: v[i] for k, v in values(guide).items()})
        if sites(q):
            expected = sum(node["fn"].log_prob(node["value"])[i] for node in sites(guide).values())
            torch.testing.assert_close(total_log_prob(q), expected)


def check_predictive(prior: SourcePrior) -> None:
    """`Predictive` in parallel draws fresh paths, and replays those it is given."""
    program = partial(in_plates, prior, frames(prior, 5), **start_of(prior))
    drawn = Predictive(program, num_samples=6, parallel=True)()
    assert drawn["s"].shape == (6, *BATCH, frames(prior, 5), prior.source_dim)
    assert not torch.equal(drawn["s"][0], drawn["s"][1])
    latents = {name: value for name, value in drawn.items() if name != "s"}
    if latents:
        given = Predictive(program, posterior_samples=latents, parallel=True)()
        assert given["s"].shape == drawn["s"].shape


def check_padding(prior: SourcePrior) -> None:
    """Masked frames at the end change no density, whatever they hold, or a mask is refused."""
    short, long = 4, 7
    if not prior.takes_mask:
        mask = torch.ones(frames(prior, long), dtype=torch.bool)
        try:
            run_prior(prior, long, mask=mask)
        except ValueError as error:
            assert "mask" in str(error), error
        else:
            raise AssertionError("a mask that is not read must be refused")
        return
    mask = (torch.arange(long) < short).expand(*BATCH, long)
    data = values(run_prior(prior, long))
    q = values(run_guide(prior, data["s"]))

    def first_frames(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: v[..., :short, :] if of_frames(v) else v for n, v in values.items()}

    def with_junk(values: dict[str, Tensor], junk: float) -> dict[str, Tensor]:
        there = mask[..., None]
        return {
            n: torch.where(there, v, torch.full_like(v, junk)) if of_frames(v) else v
            for n, v in values.items()
        }

    cut, cut_q = first_frames(data), first_frames(q)
    expected = total_log_prob(run_prior(prior, short, data=cut))
    for junk in (0.0, 7.0):
        padded, padded_q = with_junk(data, junk), with_junk(q, junk)
        actual = total_log_prob(run_prior(prior, long, data=padded, mask=mask))
        torch.testing.assert_close(actual, expected)
        if q:
            torch.testing.assert_close(
                total_log_prob(run_guide(prior, padded["s"], data=padded_q, mask=mask)),
                total_log_prob(run_guide(prior, cut["s"], data=cut_q)),
            )
        if prior.has_elbo:
            anchor, bounds = example_anchor(prior), []
            for s, keywords in ((padded["s"], {"mask": mask}), (cut["s"], {})):
                drawn = first_frames(q) if s is cut["s"] else q
                for name, value in drawn.items():  # any numbers, the same for both
                    keywords[f"{name.removeprefix('s_')}_noise"] = value
                bounds.append(prior.elbo(s, anchor=anchor, **keywords))
            torch.testing.assert_close(*bounds)


def check_gradients(prior: SourcePrior) -> None:
    """Every named parameter gets a finite, non-zero gradient: densities, draws, the bound."""
    anchor, data = example_anchor(prior), values(run_prior(prior))

    def by_density() -> Tensor:
        guide = run_guide(prior, data["s"])
        fixed = run_guide(prior, data["s"], data=values(guide))
        total = total_log_prob(run_prior(prior, data=data)).sum()
        return total + (total_log_prob(fixed).sum() if sites(fixed) else 0.0)

    def by_draw() -> Tensor:
        torch.manual_seed(0)
        model = run_prior(prior)
        guide = run_guide(prior, data["s"])
        drawn = [node["value"] for t in (model, guide) for node in sites(t).values()]
        return sum((value**2).sum() for value in drawn)

    routes: dict[str, Callable[[], Tensor]] = {"densities": by_density}
    if all(node["fn"].has_rsample for node in sites(run_prior(prior)).values()):
        routes["draws"] = by_draw
    if prior.has_elbo:
        routes["elbo"] = lambda: prior.elbo(data["s"], anchor=anchor).sum()
    named = {
        name: parameter
        for name, parameter in prior.named_parameters()
        if parameter.requires_grad and not cancels(name)
    }
    for route, objective in routes.items() if named else ():
        gradients = torch.autograd.grad(objective(), list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            assert gradient is not None, f"{name} gets no gradient through {route}"
            assert gradient.isfinite().all(), f"{name}: infinite gradient through {route}"
            assert gradient.any(), f"{name}: zero gradient through {route}"


def check_dtypes(prior: SourcePrior) -> None:
    """float32 and float64 in, the same out."""
    for dtype in (torch.float32, torch.float64):
        prior = prior.to(dtype)
        anchor = example_anchor(prior)
        trace = run_prior(prior)
        s = trace.nodes["s"]["value"]
        assert s.dtype == dtype and total_log_prob(trace).dtype == dtype
        if prior.has_gaussian_message:
            assert {v.dtype for v in prior.gaussian_message(s, anchor=anchor)} == {dtype}


def check_message(prior: SourcePrior) -> None:
    """Shapes of the message; the anchor in its first row; finite for any trajectory."""
    if not prior.has_gaussian_message:
        return
    anchor, d = example_anchor(prior), prior.block_dim
    blocks = prior.source_dim // d
    s = values(run_prior(prior))["s"]
    for iterate in (s, torch.zeros_like(s), 1e4 * torch.randn_like(s)):
        message = prior.gaussian_message(iterate, anchor=anchor)
        shapes = {"transition": (d, d), "offset": (d,), "covariance": (d, d)}
        for name, part in zip(message._fields, message, strict=True):
            assert part.shape == (*BATCH, 5, blocks, *shapes[name]), (name, part.shape)
        assert all(v.isfinite().all() for v in message)
        assert (torch.linalg.eigvalsh(message.covariance) > 0).all()
        assert not message.transition[..., 0, :, :, :].any()
        if anchor is None:
            continue
        torch.testing.assert_close(message.offset[..., 0, :, :].flatten(-2), anchor.loc)
        variance = message.covariance[..., 0, :, :, :].diagonal(dim1=-2, dim2=-1).flatten(-2)
        torch.testing.assert_close(variance, anchor.variance)


def check_message_causality(prior: SourcePrior) -> None:
    """Row t of the message knows s_<t; the latents may tell it of what their encoder looks at."""
    encodes = isinstance(prior, DynamicalPrior)
    looks_ahead = encodes and prior.encoder.direction in ("backward", "both")
    if not prior.has_gaussian_message or looks_ahead:
        return
    anchor, trace = example_anchor(prior), run_prior(prior)
    s, has_latents = trace.nodes["s"]["value"].detach(), len(sites(trace)) > 1

    def rows(s: Tensor) -> Tensor:
        message = prior.gaussian_message(s, anchor=anchor)
        parts = [part.flatten(s.dim() - 1) for part in message]
        return torch.cat(parts, -1).movedim(-2, 0).flatten(1).sum(-1)

    jacobian = torch.autograd.functional.jacobian(rows, s).movedim(-2, 1).flatten(2)
    for t in range(s.shape[-2]):
        assert not jacobian[t, t + has_latents :].any(), f"row {t} of the message knows the future"


def message_log_prob(message: GaussianMessage, s: Tensor) -> Tensor:
    """log density of s under a message, shape (*batch, N)."""
    blocks = s.unflatten(-1, message.offset.shape[-2:])
    before = torch.cat((torch.zeros_like(blocks[..., :1, :, :]), blocks[..., :-1, :, :]), -3)
    loc = (message.transition @ before[..., None])[..., 0] + message.offset
    law = torch.distributions.MultivariateNormal(loc, message.covariance)
    return law.log_prob(blocks).sum((-1, -2))


def check_message_density(prior: SourcePrior) -> None:
    """At the iterate itself the message is p(s | z, w): z of the same noise, w at its mean."""
    if not prior.has_gaussian_message:
        return
    anchor = example_anchor(prior)
    s = values(run_prior(prior))["s"]
    drawn = sites(run_guide(prior, s))
    data = {n: node["fn"].mean for n, node in drawn.items() if not of_frames(node["value"])}
    guide, z_noise = sites(run_guide(prior, s, data=data)), None
    data["s"] = s
    for name in guide.keys() - data.keys():
        z_noise = guide[name]["fn"].noise()
        data[name] = guide[name]["fn"].roll_out(z_noise)
    expected = log_prob(run_prior(prior, data=data))["s"]
    message = prior.gaussian_message(s, anchor=anchor, z_noise=z_noise)
    torch.testing.assert_close(message_log_prob(message, s), expected)
    if prior.message_is_exact:
        elsewhere = prior.gaussian_message(s + torch.randn_like(s), anchor=anchor)
        torch.testing.assert_close(message_log_prob(elsewhere, s), expected)


def check_elbo(prior: SourcePrior) -> None:
    """The bound's mean is that of log p(s, z) - log q(z | s), within six standard errors."""
    if not prior.has_elbo:
        return
    torch.manual_seed(0)
    num_draws = 400
    anchor = example_anchor(prior)
    s = values(run_prior(prior))["s"]
    s = s.expand(num_draws, *s.shape)
    with torch.no_grad():
        guide = run_guide(prior, s)
        data = values(guide)
        wide = anchor and Anchor(*(v.expand(num_draws, *v.shape) for v in anchor))
        joint = total_log_prob(run_prior(prior, anchor=wide, data={"s": s, **data}))
        log_q = sum(node["fn"].log_prob(node["value"]) for node in sites(guide).values())
        difference = prior.elbo(s, anchor=anchor) - (joint - log_q)
    if not data:
        torch.testing.assert_close(difference, torch.zeros_like(difference))
        return
    error = difference.std(0) / num_draws**0.5
    assert (difference.mean(0).abs() < 6 * error).all(), (difference.mean(0), error)


SOURCE_PRIOR_CHECKS: tuple[Callable[[SourcePrior], None], ...] = (
    check_sites,
    check_paths,
    check_anchor,
    check_coupling,
    check_replay,
    check_particles,
    check_predictive,
    check_padding,
    check_gradients,
    check_dtypes,
    check_message,
    check_message_causality,
    check_message_density,
    check_elbo,
)
"""Every check of the contract of `SourcePrior`."""
