"""The mean-field family with unconstrained parameters, for gradient methods."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from pyromodels.distributions.chain import GaussianChain, matmul
from pyromodels.distributions.visibility import BinaryChain
from pyromodels.errors import check_choice
from pyromodels.guides.factorised import FactorisedGuide

if TYPE_CHECKING:
    from pyromodels.guides.mean_field import MeanField


class ParametrisedMeanField(FactorisedGuide):
    r"""q(w) q(v) q(s) q(z | s) by parameters that an optimiser may move anywhere.

        eta_tk     = softmax(logits_tk)
        Lambda     = R' R,  R_tt = root_t',  R_{t,t+1} = -root_t' J_t      precision of q(s), banded
        root_t     = tril(off_root_t) + diag(exp(log_root_t))
        m          = loc * unit,  unit the standard deviation that q(s) had at the start

    In units of its own deviation a step of one size fits every coordinate, whatever its scale.

    Args:
        guide: the mean-field guide to start from; left as it is.
        assignment: "mean_field" has q(w) as a factor; "marginal" leaves w to enumeration in the
            model, whose bound is tighter: `TraceEnum_ELBO` sums w out given each draw of s.

    Raises:
        ValueError: for any other assignment.
    """

    def __init__(
        self, guide: "MeanField", *, assignment: Literal["mean_field", "marginal"] = "mean_field"
    ) -> None:
        super().__init__(guide.model)
        check_choice("assignment", assignment, "mean_field", "marginal")
        self.assignment = assignment
        chain = guide.sources
        unit = chain.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        self.register_buffer("unit", unit)
        root = torch.linalg.cholesky(torch.linalg.inv(self._scaled(chain.innovation, -1)))
        small = torch.finfo(unit.dtype).eps  # logits that an optimiser can still move
        if assignment == "mean_field":
            logits = guide.responsibilities.clamp_min(small).log()
            self.logits = nn.Parameter(logits.contiguous())
            mask = guide.responsibilities.sum(-1, keepdim=True) > 0
            self.register_buffer("mask", mask)
        self.loc = nn.Parameter((chain.loc_blocks / unit).contiguous())
        self.log_root = nn.Parameter(root.diagonal(dim1=-2, dim2=-1).log().contiguous())
        if root.shape[-1] > 1:
            self.off_root = nn.Parameter(root.tril(-1).contiguous())
        else:  # blocks of one have nothing off their diagonal: nothing to train
            self.register_buffer("off_root", torch.zeros_like(root))
        self.gain = nn.Parameter(self._rescaled_gain(chain.gain, -1).contiguous())
        if self.model.detector is not None:
            self.register_buffer("visible_first", guide.visible_first.clone())
            logits = guide.visible_step.clamp(small, 1 - small).logit()
            self.visible_logits = nn.Parameter(logits.contiguous())

    @property
    def responsibilities(self) -> Tensor:
        """eta, shape (B, T, K, N [+ 1 for clutter]); no attribute where w is left to the model."""
        return self.logits.softmax(-1) * self.mask

    @property
    def sources(self) -> GaussianChain:
        """q(s), batch (B, N), event (T, D)."""
        root = self.off_root.tril(-1) + torch.diag_embed(self.log_root.exp())
        identity = torch.eye(root.shape[-1]).to(root).expand_as(root)
        inverse = torch.linalg.solve_triangular(root, identity, upper=False)
        innovation = self._scaled(matmul(inverse.mT, inverse), 1)
        gain = self._rescaled_gain(self.gain, 1)
        return GaussianChain(self.loc * self.unit, innovation, gain, validate_args=False)

    @property
    def visibility(self) -> BinaryChain:
        """q(v), batch (B, N), event (T,)."""
        return BinaryChain(self.visible_first, self.visible_logits.sigmoid(), validate_args=False)

    def _scaled(self, covariance: Tensor, power: int) -> Tensor:
        """Covariances from (power 1) or to (power -1) units of the deviation."""
        unit = self.unit**power
        return covariance * unit.unsqueeze(-1) * unit.unsqueeze(-2)

    def _rescaled_gain(self, gain: Tensor, power: int) -> Tensor:
        """Gains J_t, from s_{t+1} to s_t, from or to units of the deviation."""
        unit = self.unit**power
        after = torch.cat((unit[..., 1:, :, :], unit[..., -1:, :, :]), -3)
        return gain * unit.unsqueeze(-1) / after.unsqueeze(-2)
