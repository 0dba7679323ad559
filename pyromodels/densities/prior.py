"""Priors of trajectories as densities of waveforms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyromodels.densities.base import SmoothedDensity
from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.dynamics.base import SourcePrior
from pyromodels.dynamics.flow_prior import FlowPrior
from pyromodels.errors import SpecError, mismatch
from pyromodels.registry import DENSITIES, DYNAMICS


@DENSITIES.register("prior")
class PriorDensity(SmoothedDensity):
    r"""A prior whose density is exact, of trajectories of one coordinate, as that of a waveform.

    .. math:: p_\sigma(x) = p_\sigma(s), \qquad s_t = (x_t)

    A flow that is told the noise is a density of every sigma; other priors are of sigma = 0 alone,
    and refuse another.

    Args:
        prior: a flow or an autoregressive prior with D = 1, or the table of a registered one.

    Raises:
        SpecError: for a prior of another kind, of several coordinates, or of several members.
        ValueError: of `log_prob`, for a sigma that the prior knows nothing of.
        NotImplementedError: of `score`, where samples are classes.

    Example:
        >>> import torch
        >>> sizes = {"num_blocks": 2, "num_flows": 1, "num_layers": 2, "width": 4}
        >>> density = PriorDensity({"name": "flowavenet", **sizes}).eval()
        >>> density.score(torch.ones(3, 16))[0, :2]
        tensor([-1., -1.])
    """

    def __init__(self, prior: SourcePrior | Mapping[str, Any]) -> None:
        super().__init__()
        made = DYNAMICS.build(prior) if isinstance(prior, Mapping) else prior
        several = getattr(made, "num_members", 1) > 1
        if not isinstance(made, FlowPrior | Autoregressive) or made.source_dim != 1 or several:
            given = f"{type(made).__name__}, D = {made.source_dim}"
            expected = "one flow, e.g. flowavenet, or autoregressive prior, e.g. wavenet, of D = 1"
            raise SpecError(mismatch("prior", given=given, expected=expected))
        self.prior = made

    def log_prob(
        self,
        x: Tensor,  # shape: (*batch, T)
        noise_std: float | Tensor = 0.0,  # sigma, broadcastable to (*batch)
    ) -> Tensor:  # nats, shape: (*batch)
        """Return log p_sigma(x)."""
        if isinstance(self.prior, FlowPrior):
            return self.prior.log_prob(x.unsqueeze(-1), noise_std)
        if isinstance(noise_std, Tensor) or noise_std != 0:
            hint = "An autoregressive prior is told nothing of the noise."
            raise ValueError(mismatch("noise_std", given=noise_std, expected=0, hint=hint))
        return self.prior.elbo(x.unsqueeze(-1))

    def score(
        self,
        x: Tensor,  # shape: (*batch, T)
        noise_std: float | Tensor = 0.0,  # sigma, broadcastable to (*batch)
    ) -> Tensor:  # shape: (*batch, T)
        """Return the gradient of log p_sigma at x."""
        if isinstance(self.prior, Autoregressive) and not self.prior.emission.has_rsample:
            raise NotImplementedError(
                f"score: samples of {type(self.prior).__name__} are classes, whose probability has "
                "no gradient with respect to a sample"
            )
        return super().score(x, noise_std)
