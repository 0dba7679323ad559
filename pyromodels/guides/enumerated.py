"""The exact posterior of a small linear-Gaussian mixture, by enumeration of all assignments."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyromodels.batch import MixtureBatch
from pyromodels.distributions.chain import GaussianChain
from pyromodels.distributions.kalman import smooth
from pyromodels.errors import mismatch
from pyromodels.guides.base import Guide
from pyromodels.models.mixdvae import MixDVAE
from pyromodels.pyro_support.plates import batch_plate, frame_plate, observation_plate, source_plate
from pyromodels.pyro_support.vectorised_runs import refuse_minibatch
from pyromodels.registry import GUIDES

HYPOTHESIS = "_hypothesis"


@GUIDES.register("enumerated")
class Enumerated(Guide):
    r"""p(s, w | o) of a linear-Gaussian MixDVAE: a mixture of Gaussian chains.

        p(s, w = h | o) = p(h | o) \prod_n N(s_n; smoother given h),    h = 1..N^M

    M observations of N sources have N^M assignments h, so this is for tiny problems: the reference
    that approximations are held against.

    ===============  =================  =====================================================
    name             shape              meaning
    ===============  =================  =====================================================
    log_weight       (B, H)             log p(h | o)
    assignment       (B, H, T, K)       owners under h, 0 where nothing is observed
    log_evidence     (B,)               log p(o), nats
    ===============  =================  =====================================================

    Args:
        model: with a prior whose message is exact, and no detector.
        batch: the data.
        max_hypotheses: largest N^M.

    Raises:
        ValueError: where the model is not linear-Gaussian or the problem is too large, or, when
            run, for a minibatch.
    """

    max_plate_nesting = MixDVAE.max_plate_nesting

    @torch.no_grad()
    def __init__(
        self, model: MixDVAE, batch: MixtureBatch, *, max_hypotheses: int = 100_000
    ) -> None:
        super().__init__()
        if model.detector is not None or not model.prior.message_is_exact:
            raise ValueError(
                "Enumerated: only a linear-Gaussian prior without a detector has an exact "
                "posterior; guides for the others: mean_field, chain"
            )
        num_sources = batch.num_sources
        observed = batch.mask.flatten(1).sum(-1)  # M of every sequence
        num_hypotheses = num_sources ** int(observed.max())
        if num_hypotheses > max_hypotheses:
            what, given = "number of assignments", f"{num_sources}^{int(observed.max())}"
            expected = f"at most max_hypotheses = {max_hypotheses}"
            hint = "Give fewer observations, or use mean_field or chain"
            raise ValueError(mismatch(what, given=given, expected=expected, hint=hint))
        # h in base N: digit m is the owner of the m-th observation of its sequence
        rank = (batch.mask.flatten(1).cumsum(-1) - 1).clamp_min(0).reshape(batch.mask.shape)
        place = num_sources**rank * batch.mask
        hypothesis = torch.arange(num_hypotheses, device=batch.mask.device)
        owner = hypothesis[:, None, None, None] // place.clamp_min(1) % num_sources * batch.mask
        allowed = hypothesis[:, None] < num_sources**observed

        chain, log_joint = _given_assignment(model, batch, owner)
        log_joint = log_joint.masked_fill(~allowed, -torch.inf)
        self.register_buffer("place", place)
        self.register_buffer("assignment", owner.transpose(0, 1))
        self.register_buffer("log_evidence", log_joint.logsumexp(0))
        self.register_buffer("log_weight", log_joint.log_softmax(0).T)
        for name, part in (
            ("loc", chain.loc_blocks),
            ("innovation", chain.innovation),
            ("gain", chain.gain),
            ("covariance", chain.covariance),
        ):
            self.register_buffer(name, part.transpose(0, 1).contiguous())  # (B, H, N, T, G, ...)

    @property
    def responsibilities(self) -> Tensor:
        """p(w_tk = n | o), shape (B, T, K, N); 1 for n = 0 where nothing is observed."""
        owners = nn.functional.one_hot(self.assignment, self.loc.shape[2]).to(self.loc)
        return torch.einsum("bh,bhtkn->btkn", self.log_weight.exp(), owners)

    @property
    def mean(self) -> Tensor:
        """E[s | o], shape (B, N, T, D)."""
        return torch.einsum("bh,bhntd->bntd", self.log_weight.exp(), self.loc.flatten(-2))

    @property
    def variance(self) -> Tensor:
        """Var[s | o], shape (B, N, T, D)."""
        # about the mean: E[s^2] - E[s]^2 cancels in float32
        deviation = self.loc.flatten(-2) - self.mean.unsqueeze(1)
        square = self.covariance.diagonal(dim1=-2, dim2=-1).flatten(-2) + deviation.square()
        return torch.einsum("bh,bhntd->bntd", self.log_weight.exp(), square)

    def forward(self, batch: MixtureBatch) -> None:
        """Run the guide."""
        refuse_minibatch("Enumerated", batch)
        num_sequences, num_frames, num_slots, _ = batch.observations.shape
        sequences = batch_plate(num_sequences)
        row = torch.arange(num_sequences, device=self.loc.device)
        with sequences:
            # p(h | o)
            law = dist.Categorical(logits=self.log_weight[:, None, None])
            hypothesis = pyro.sample(HYPOTHESIS, law, infer={"is_auxiliary": True})[..., 0, 0]
            with source_plate(batch.num_sources):
                # p(s | h, o)
                parts = (part[row, hypothesis] for part in (self.loc, self.innovation, self.gain))
                chain = GaussianChain(*parts, validate_args=False)
                pyro.sample("s", chain.map(lambda part: part.unsqueeze(hypothesis.dim())))
        with (
            sequences,
            frame_plate(num_frames),
            observation_plate(num_slots),
            pyro.poutine.mask(mask=batch.mask),
        ):
            # w is what h says
            pyro.sample("w", dist.Delta(self.assignment[row, hypothesis]))

    def responsibilities_of(self, batch: MixtureBatch) -> Tensor:
        """Return `responsibilities`."""
        return self.responsibilities

    def auxiliary(
        self,
        values: dict[str, Tensor],  # s and w, in the program's shapes
    ) -> dict[str, Tensor]:
        """Return the hypothesis that `values` belong to."""
        hypothesis = (values["w"] * self.place).sum((-1, -2), keepdim=True)
        return {HYPOTHESIS: hypothesis, **values}


def _given_assignment(
    model: MixDVAE,
    batch: MixtureBatch,
    owner: Tensor,  # shape: (H, B, T, K)
) -> tuple[GaussianChain, Tensor]:  # batch (H, B, N); log p(o, h), shape (H, B)
    """Smooth every source under every assignment."""
    count = len(owner)
    assigned = nn.functional.one_hot(owner, batch.num_sources) * batch.mask[..., None]
    assigned = assigned.to(batch.observations)
    seen = model.observation.pseudo_observations(batch.repeat(count), assigned.flatten(0, 1))
    like = seen[1].new_zeros(batch.num_sequences, batch.num_sources, batch.num_frames, 1)
    like = like.expand(-1, -1, -1, model.prior.source_dim)
    message = model.prior.gaussian_message(like, anchor=batch.anchor)
    chain = smooth(message, *(part.unflatten(0, (count, -1)) for part in seen))
    # p(o, h) = p(s, o, h) / p(s | o, h) at any s
    s = chain.mean
    log_prior = model.prior.path(batch.num_frames, batch.anchor).log_prob(s).sum(-1)
    log_weight, log_parts = model.components(batch, {"s": s})
    log_likelihood = (assigned * (log_weight + log_parts)).sum((-1, -2, -3))
    return chain, log_prior + log_likelihood - chain.log_prob(s).sum(-1)
