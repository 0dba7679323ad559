"""Multi-scale flows: after a level some channels are done, and the others go on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyromodels.errors import SpecError, mismatch
from pyromodels.transforms.base import Invertible, ask
from pyromodels.transforms.squeeze import Squeeze


class MultiScale(Invertible):
    r"""A level squeezes and moves; a half of its channels is factored out, as the other half says.

        h_0 = x
        (h_l, g_l) = f_l(squeeze(h_{l-1}))                   halves; all is h_l without a prior
        z_l        = (g_l - m(h_l)) exp(-r(h_l)),            (m, r) = prior_l(h_l)
        z_L        = h_L

    All of z is returned, and what is factored out is standardised, so that f^{-1}(f(x)) = x. z has
    the shape of x: what a level made of a place lies there, and `latents` takes it apart.

    Departure: published code returns g_l in place of z_l, or z_L alone, and cannot find back to x.

    Reference: Kim et al., 2019, FloWaveNet; Kingma and Dhariwal, 2018, Glow, section 3.4.

    Args:
        levels: f_1, ..., f_L, of the channels that `Squeeze` makes.
        priors: what says m and r of g_l: from (rows, C / 2, *space), and e where there is one, to
            (rows, C, *space); None where a level factors nothing out, which the last cannot.
        space_dim: dims of a channel, 1 of sounds, 2 of images.

    Raises:
        SpecError: where the numbers of levels and priors do not fit.

    Example:
        >>> from pyromodels.transforms.actnorm import ActNorm
        >>> prior = nn.Conv1d(1, 2, 1)
        >>> flow = MultiScale([ActNorm(2), ActNorm(2)], [prior, None])
        >>> z, _ = flow.to_noise(torch.randn(5, 1, 8))
        >>> z.shape, [tuple(latent.shape) for latent in flow.latents(z)]
        (torch.Size([5, 1, 8]), [(5, 1, 4), (5, 2, 2)])
    """

    def __init__(
        self,
        levels: Sequence[Invertible],
        priors: Sequence[nn.Module | None],
        *,
        space_dim: int = 1,
    ) -> None:
        super().__init__()
        if not levels or len(priors) != len(levels) or priors[-1] is not None:
            given = f"{len(priors)} for {len(levels)} levels"
            expected = "as many as levels, one or more, the last of them None"
            raise SpecError(mismatch("priors", given=given, expected=expected))
        self.event_dim = 1 + space_dim
        self.squeeze, self.levels = Squeeze(space_dim=space_dim), nn.ModuleList(levels)
        self.priors = nn.ModuleList(nn.Identity() if prior is None else prior for prior in priors)
        self.splits = tuple(prior is not None for prior in priors)

    def to_noise(self, x: Tensor, e: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return z, all latents in their places."""
        log_det = x.new_zeros(x.shape[: x.dim() - self.event_dim])
        event, latents = tuple(range(-self.event_dim, 0)), []
        for level, prior, split in zip(self.levels, self.priors, self.splits, strict=True):
            x, change = level.to_noise(self.squeeze.to_noise(x)[0], e)
            log_det = log_det + change
            if split:
                x, factored = x.chunk(2, -self.event_dim)
                mean, log_std = self._said(prior, x, e)
                latents.append((factored - mean) * torch.exp(-log_std))
                log_det = log_det - log_std.sum(event)
        return self.placed([*latents, x]), log_det

    def from_noise(self, z: Tensor, e: Tensor | None = None) -> Tensor:
        """Return x."""
        *latents, x = self.latents(z)
        parts = zip(self.levels, self.priors, self.splits, strict=True)
        for level, prior, split in reversed(list(parts)):
            if split:
                mean, log_std = self._said(prior, x, e)
                x = torch.cat((x, mean + latents.pop() * log_std.exp()), -self.event_dim)
            x = self.squeeze.from_noise(level.from_noise(x, e))
        return x

    def latents(
        self,
        z: Tensor,  # shape: (*batch, C, *space)
    ) -> list[Tensor]:  # by level, finest first; each (*batch, C_l, *space_l)
        """Return what each level factored out, and last what came through all of them."""
        found = []
        for split in self.splits:
            z = self.squeeze.to_noise(z)[0]
            if split:
                z, factored = z.chunk(2, -self.event_dim)
                found.append(factored)
        return [*found, z]

    def placed(
        self,
        latents: Sequence[Tensor],  # as `latents` returns them
    ) -> Tensor:  # z, shape: (*batch, C, *space)
        """Return z: put every latent in its place."""
        *factored, z = latents
        for split in reversed(self.splits):
            if split:
                z = torch.cat((z, factored.pop()), -self.event_dim)
            z = self.squeeze.from_noise(z)
        return z

    def _said(self, prior: nn.Module, kept: Tensor, e: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, log_std = ask(prior, kept, e, self.event_dim).chunk(2, -self.event_dim)
        return mean, log_std
