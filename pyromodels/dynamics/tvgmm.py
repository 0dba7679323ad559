"""TVGMM: a Gaussian mixture whose parameters a recurrent network says at every frame."""

from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.emissions.mixture import Mixture
from pyromodels.networks.memory import Kind
from pyromodels.registry import DYNAMICS


@DYNAMICS.register("tvgmm")
class TVGMM(Autoregressive):
    r"""Time-varying Gaussian mixture, p(x_t | x_{<t}) = \sum_m w_mt N(x_t; mu_mt, diag C_mt).

        e_t         = GRU(e_{t-1}, x_{t-1}),  e_1 = 0                                 (6)
        q_t         = ReLU(W e_t + b)
        mu_t, w_t   = V_mu q_t + b_mu, softmax(V_w q_t + b_w)                         (13)
        sqrt(C_t)   = softplus(V_C q_t + b_C)

    One component is the time-varying Gaussian, whose frames send MixDVAE their message. Several
    send none: SVI fits MixDVAE with them (inference "svi" with elbo "trace_enum").

    Departure: eq. 13 has C = sigmoid(...), below 1, which fits data that were scaled to [0, 1];
    `bounded` is that. The softmax of the paper has a minus sign, which changes nothing.

    Reference: Ghosh, Espuña Fontcuberta, Abdalmoaty and Chatterjee, 2022, Time-varying normalizing
    flow for generative modeling of dynamical signals, eq. 12-13.

    Arguments are those of `Autoregressive` and of the emission `Mixture`.

    Raises:
        SpecError: a size or a name that does not fit.

    Example:
        >>> path = TVGMM(source_dim=2, num_components=3).path(20)
        >>> path.log_prob(path.rsample((5,))).shape
        torch.Size([5])
    """

    contract_specs = tuple(
        {"past_dim": 3, "hidden_dim": 4, **more}
        for more in (
            {"source_dim": 1},
            {"source_dim": 2, "bounded": True},
            {"source_dim": 1, "num_components": 3},
            {"source_dim": 3, "num_components": 2, "memory": "lstm"},
        )
    )

    def __init__(
        self,
        *,
        source_dim: int = 4,
        num_components: int = 1,
        past_dim: int = 64,
        hidden_dim: int = 8,
        memory: Kind = "gru",
        bounded: bool = False,
        num_members: int = 1,
        tied_dim: int = 0,
    ) -> None:
        super().__init__(
            source_dim=source_dim, past_dim=past_dim, memory=memory,
            emission=Mixture(num_components, hidden_dim, bounded),
            num_members=num_members, tied_dim=tied_dim,
        )
