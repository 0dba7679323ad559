"""A bound on a log density that a score alone gives: how well it denoises, at every level."""

import math

import torch
from torch import Tensor

from pyromodels.densities.base import SmoothedDensity
from pyromodels.errors import mismatch


@torch.no_grad()
def denoising_bound(
    density: SmoothedDensity,
    x: Tensor,  # shape: (*batch, *event)
    *,
    noise_std: tuple[float, float],
    scale: float,
    num_levels: int = 20,
    num_draws: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:  # nats, shape: (*batch)
    r"""Return an estimate of a lower bound on log p(x), of d dimensions.

    .. math:: -\frac{d}{2} \log 2 \pi e\, \sigma_1^2
              - \int_{\sigma_1}^{\sigma_2} \frac{E\|x - D(x + \sigma n; \sigma)\|^2}{\sigma^2}
                d \log \sigma
              - KL\big(N(x, \sigma_2^2 I)\,\|\,N(0, (\sigma_2^2 + s^2) I)\big)

    D = x + sigma^2 score(x, sigma) is what the density takes for the signal under noise n. The
    bound is that of a diffusion in continuous time that begins as a Gaussian at sigma_2 and says x
    by a Gaussian of deviation sigma_1; where the score is exact, both go into log p as sigma_1
    falls and sigma_2 grows. The same noise serves all signals, so that differences between them
    have less of it. All levels and draws are one call of the score.

    Args:
        density: whose score is asked.
        x: signals.
        noise_std: sigma_1 and sigma_2.
        scale: s, the root mean square of signals, for the Gaussian at sigma_2.
        num_levels: of the integral over log sigma, midpoints of equal parts.
        num_draws: of n at each.
        generator: of n; None: torch's own.

    Raises:
        ValueError: for levels out of order, or a number that is not positive.

    Reference: Kingma, Salimans, Poole and Ho, 2021, Variational diffusion models, eqs. 11 and 17.

    Example:
        >>> from pyromodels.densities.gaussian import GaussianDensity
        >>> likely, less = denoising_bound(
        ...     GaussianDensity(), torch.tensor([[0.1], [3.0]]), noise_std=(0.01, 100.0), scale=1.0)
        >>> bool(likely > less)
        True
    """
    least, greatest = noise_std
    if not 0 < least < greatest:
        expected = "two positive numbers, ascending"
        raise ValueError(mismatch("noise_std", given=noise_std, expected=expected))
    for name, value in (("scale", scale), ("num_levels", num_levels), ("num_draws", num_draws)):
        if value <= 0:
            raise ValueError(mismatch(name, given=value, expected="a positive number"))
    event = x.shape[x.dim() - density.event_dim :]
    batch, dim = x.shape[: x.dim() - density.event_dim], math.prod(event)
    width = math.log(greatest / least) / num_levels
    place = torch.arange(num_levels, device=x.device, dtype=x.dtype) + 0.5
    sigma = (math.log(least) + width * place).exp().repeat_interleave(num_draws)
    noise = torch.randn(len(sigma), *event, generator=generator, device=x.device, dtype=x.dtype)
    sigma = sigma.reshape(-1, *[1] * len(batch))
    spread = density.over_event(sigma)
    heard = x + spread * noise.reshape(len(noise), *[1] * len(batch), *event)
    wrong = spread.square() * density.score(heard, sigma) + heard - x  # D - x
    squares = (wrong / spread).square().flatten(-density.event_dim).sum(-1)
    lost = width / num_draws * squares.sum(0)
    total = greatest**2 + scale**2
    power = x.square().flatten(-density.event_dim).sum(-1)
    ratio = greatest**2 / total
    start = 0.5 * (power / total + dim * (ratio - 1 - math.log(ratio)))
    return -0.5 * dim * math.log(2 * math.pi * math.e * least**2) - lost - start
