"""The dynamical variational autoencoder: one observed trajectory, latents that explain it."""

import pyro
from torch import Tensor, nn

from pyromodels.batch import SequenceBatch
from pyromodels.distributions.message import Anchor
from pyromodels.dynamics.base import SourcePrior
from pyromodels.dynamics.dynamical_prior import DynamicalPrior
from pyromodels.errors import misshapen
from pyromodels.pyro_support.param_store import register
from pyromodels.pyro_support.plates import MAX_PLATE_NESTING, batch_plate, source_plate
from pyromodels.pyro_support.site_labels import Layout
from pyromodels.registry import MODELS


@MODELS.register("dvae")
class DynamicalVAE(nn.Module):
    r"""Dynamical variational autoencoder: p(x, z) of one observed trajectory a sequence.

        p(x, z) = \prod_t p(z_t | x_{<t}, z_{<t}) p(x_t | x_{<t}, z_{<=t})

    The prior says what each factor depends on; the guide `Amortised` is its own encoder,
    q(z | x), or any other. x is the single source of its sequence: sites have the shapes they have
    in `MixDVAE`.

    ======  =======  ==================  ===========
    symbol  site     shape               unit
    ======  =======  ==================  ===========
    x       "x"      (B, 1, 1, T, X)     as the data
    z       "x_z"    (B, 1, 1, T, L)     1
    w       "x_w"    (B, 1, 1, L_w)      1; priors with a latent of the whole sequence
    ======  =======  ==================  ===========

    Frames that are masked must be at the end of a sequence. These priors are fed with x_{<t}, and
    would take whatever fills a gap for data.

    Reference: Girin, Leglaive, Bie, Diard, Hueber and Alameda-Pineda, 2021, Dynamical variational
    autoencoders: a comprehensive review; Lin, 2024 (thesis), section 2.2.2.

    Args:
        prior: the dynamics of x and z. One without latents gives the exact p(x).
        use_prediction: scheduled sampling: the probability, at every frame of every sequence, that
            the networks are fed with the model's own prediction in place of x_t, in draws as in
            densities. An attribute for schedules to set; at 0 (teacher forcing) the program is the
            model itself, at 1 another one, whose frames know earlier ones through z alone.
        prediction_hops: through how many of these in a row gradients pass; None: all.

    Raises:
        ShapeError: in `forward`, where x has not the prior's size.
        ValueError: in `forward`, for a batch with gaps, or without the anchor its prior needs.

    Example:
        >>> import torch
        >>> from pyromodels.dynamics.srnn import SRNN
        >>> model = DynamicalVAE(SRNN(source_dim=2, latent_dim=3))
        >>> anchor = Anchor(torch.zeros(5, 2), torch.ones(5, 2))
        >>> batch = SequenceBatch(torch.zeros(5, 20, 2), torch.ones(5, 20).bool(), anchor)
        >>> model(batch, generate=True).shape
        torch.Size([5, 1, 1, 20, 2])
    """

    max_plate_nesting = MAX_PLATE_NESTING

    def __init__(
        self,
        prior: SourcePrior,
        *,
        use_prediction: float = 0.0,
        prediction_hops: int | None = 0,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.use_prediction, self.prediction_hops = use_prediction, prediction_hops

    def forward(self, batch: SequenceBatch, *, generate: bool = False) -> Tensor:
        """Run the program; returns x, shape (*, B, 1, 1, T, X). `generate` draws x as well."""
        register(self)
        x, anchor, mask = self.trajectories(batch)
        keywords = {} if self.prior.needs_anchor else {"batch_shape": x.shape[:-2]}
        if isinstance(self.prior, DynamicalPrior):
            keywords["use_prediction"] = self.use_prediction
            keywords["prediction_hops"] = self.prediction_hops
        with batch_plate(batch.num_sequences), source_plate(1):
            with pyro.poutine.condition(data={} if generate else {"x": x}):
                # p(z_t | x_<t, z_<t) p(x_t | x_<t, z_<=t), all t
                return self.prior.sample_sources(
                    "x", batch.num_frames, anchor=anchor, mask=mask, **keywords
                )

    def layout(self, batch: SequenceBatch) -> Layout:
        """Return names of dimensions, and which frames there are."""
        frames = batch.mask.unsqueeze(1)  # of the one source
        return Layout(
            sequences="batch",
            event_dims={
                "x": ("frame", "feature"), "x_z": ("frame", "latent"), "x_w": ("global_latent",)
            },
            present={"x": frames, "x_z": frames},
            constants={"mask": (("batch", "frame"), batch.mask)},
        )

    def trajectories(self, batch: SequenceBatch) -> tuple[Tensor, Anchor | None, Tensor]:
        """Return x (B, 1, 1, T, X), the anchor (B, 1, 1, X) and the mask (B, 1, 1, T)."""
        if batch.x.shape[-1] != self.prior.source_dim:
            raise misshapen("x", batch.x.shape, f"(B, T, {self.prior.source_dim})")
        if batch.anchor is None and self.prior.needs_anchor:
            raise ValueError(
                f"anchor: {type(self.prior).__name__} starts every trajectory at one; "
                "give the batch an Anchor, e.g. at the first frame"
            )
        if batch.has_gaps:
            raise ValueError(
                f"mask: a gap, and {type(self.prior).__name__} is fed with what fills it; "
                "cut the sequence there, or fill the gap in and unmask it"
            )
        anchor = batch.anchor and Anchor(*(part[:, None, None] for part in batch.anchor))
        return batch.x[:, None, None], anchor, batch.mask[:, None, None]
