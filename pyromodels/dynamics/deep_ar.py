"""Deep AR: a recurrent network predicts the next frame, with no latent variable."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.emissions.base import Emission
from pyromodels.networks.memory import SingleRecurrence
from pyromodels.networks.mlp import Heads, Recurrence
from pyromodels.registry import DYNAMICS


@DYNAMICS.register("deep_ar")
class DeepAR(Autoregressive):
    r"""Deep autoregressive prior, p(s) = \prod_t N(s_t; mu(s_<t), diag v(s_<t)), s_1 the anchor's.

        h_t          = LSTM(x_{t-1}, h_{t-1})
        mu_t, log v_t = decoder(h_t)

    x is what the emission shows of s: s itself, or its increments in units of the box.

    Symbols are those of `DynamicalPrior`.

    Reference: Lin, 2024 (thesis), section 4.4.5: an LSTM with hidden size 8, which the defaults
    are; 5.4.5: of spectra, one as large as that of the dynamical VAE, which `sizes` have.

    Args:
        input_dims: tanh layers before the LSTM; none as published.
        decoder_dims: tanh layers after it; none as published.

    Example:
        >>> import torch
        >>> from pyromodels.distributions.message import Anchor
        >>> steps = {"name": "gaussian", "predicts": "increment", "scale": "unit"}
        >>> prior = DeepAR(source_dim=2, emission=steps)
        >>> anchor = Anchor(torch.zeros(3, 2), torch.ones(3, 2))
        >>> prior.path(10, anchor=anchor).rsample().shape
        torch.Size([3, 10, 2])
    """

    contract_specs = (
        {"source_dim": 1, "hidden_dim": 3},
        {
            "source_dim": 1,
            "hidden_dim": 3,
            "emission": {"name": "gaussian", "predicts": "increment", "scale": "unit"},
        },
        {"input_dims": (5,), "decoder_dims": (6,)},
        {"emission": {"name": "gaussian", "predicts": "increment"}},
    )
    sizes: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"hidden_dim": 128},
        "small": {"hidden_dim": 128, "decoder_dims": (128,)},
    }

    def __init__(
        self,
        *,
        source_dim: int = 4,
        hidden_dim: int = 8,
        input_dims: Sequence[int] = (),
        decoder_dims: Sequence[int] = (),
        emission: str | Mapping[str, Any] | Emission = "gaussian",
    ) -> None:
        recurrence = Recurrence(source_dim, input_dims, hidden_dim)
        super().__init__(
            source_dim=source_dim, past_dim=hidden_dim, memory=SingleRecurrence(recurrence),
            emission=emission, decoder_dims=decoder_dims,
        )

    @property
    def recurrence(self) -> Recurrence:
        """h_t."""
        return self.memory.recurrence

    @property
    def decoder(self) -> Heads:
        """mu_t and log v_t."""
        return self.head.decoder
