"""TVNF: a time-varying normalizing flow."""

from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.emissions.flow import Flow
from pyromodels.networks.memory import Kind
from pyromodels.registry import DYNAMICS
from pyromodels.transforms.coupling import Coupling


@DYNAMICS.register("tvnf")
class TVNF(Autoregressive):
    r"""Time-varying normalizing flow: exact density, exact draws, no latents.

        p(x) = \prod_t N(f(x_t; e_t); 0, I) |det df(x_t; e_t) / dx_t|                 (1), (3)
        e_t  = GRU(e_{t-1}, x_{t-1}),  e_1 = 0                                        (6)
        f    = L coupling layers, each told by e_t                                    (7) - (10)

    For D = 1 there is no half to keep, and affine layers leave every frame Gaussian given the past;
    splines do not. As a source of MixDVAE it sends no Gaussian message: SVI fits (inference "svi"
    with elbo "trace_enum"), and its pathwise gradient goes through the flow.

    Reference: Ghosh, Espuña Fontcuberta, Abdalmoaty and Chatterjee, 2022, Time-varying normalizing
    flow for generative modeling of dynamical signals, eq. 1-11.

    Arguments are those of `Autoregressive`, e being of size `past_dim`, and of the emission `Flow`.

    Raises:
        SpecError: a size, a split or a name that does not fit.

    Example:
        A likelihood in a Pyro program, of five sequences of twenty frames:

        >>> import pyro, torch
        >>> tvnf = TVNF(source_dim=3)
        >>> def model(x):
        ...     with pyro.plate("batch", len(x)):
        ...         return pyro.sample("x", tvnf.path(20, batch_shape=x.shape[:1]), obs=x)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.zeros(5, 20, 3))
        >>> trace.compute_log_prob()
        >>> trace.nodes["x"]["log_prob"].shape
        torch.Size([5])
    """

    contract_specs = tuple(
        {"past_dim": 3, "hidden_dim": 4, "num_layers": 2, **more}
        for more in (
            {"source_dim": 1},
            {"source_dim": 2, "mixing": True, "num_hidden": 0},
            {"source_dim": 5, "memory": "lstm"},
            {"source_dim": 2, "memory": "convolution", "coupling": "spline"},
            {"source_dim": 3, "split": 1, "num_layers": 1},
        )
    )

    def __init__(
        self,
        *,
        source_dim: int = 4,
        past_dim: int = 64,
        hidden_dim: int = 30,
        num_hidden: int = 2,
        num_layers: int = 4,
        memory: Kind = "gru",
        coupling: Coupling = "affine",
        mixing: bool = False,
        split: int | None = None,
        num_members: int = 1,
        tied_dim: int = 0,
    ) -> None:
        super().__init__(
            source_dim=source_dim, past_dim=past_dim, memory=memory,
            emission=Flow(hidden_dim, num_hidden, num_layers, coupling, mixing, split),
            num_members=num_members, tied_dim=tied_dim,
        )
