"""What a fitted guide says, as one object: draws, densities, predictions, a file for ArviZ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from inference import arviz_io
from inference.arviz_io import Variable
from pyromodels.batch import MixtureBatch
from pyromodels.errors import ShapeError, mismatch
from pyromodels.guides.mean_field import MeanField
from pyromodels.models.mixdvae import MixDVAE

Draws = dict[str, Tensor]
"""Draws by site name; dimension 0 counts draws, dimension 1 sequences."""

BOX = ("centre x", "centre y", "width", "height")
"""What the four numbers of an observation are, in a model whose clutter is of boxes."""


@dataclass(frozen=True)
class Posterior:
    r"""q(s, v, w, z) of a MixDVAE given one batch.

    =========  ======================  =======================================================
    site       shape of n draws        meaning
    =========  ======================  =======================================================
    ``s``      (n, B, N, T, D)         trajectories, as the data
    ``s_z``    (n, B, N, T, L)         latents of a deep prior, drawn from its encoder given s
    ``v``      (n, B, N, T)            visibility, 0 or 1; with a detector only
    ``w``      (n, B, T, K)            owner 0..N-1, N for clutter; -1 where no observation is
    =========  ======================  =======================================================

    Draws are independent and use torch's global random state: seed it at the edge.

    Args:
        model: the program.
        guide: the guide fitted to `batch`.
        batch: the data.

    Raises:
        ShapeError: where the guide was fitted to another batch.

    Example:
        >>> from pyromodels.distributions.message import Anchor
        >>> from pyromodels.dynamics.linear import LinearGaussian
        >>> o = torch.linspace(0, 1, 8).reshape(1, 8, 1, 1)
        >>> batch = MixtureBatch(
        ...     o, torch.ones(1, 8, 1, dtype=torch.bool), torch.full_like(o, 0.01),
        ...     Anchor(torch.zeros(1, 1, 1), torch.ones(1, 1, 1)),
        ... )
        >>> model = MixDVAE(LinearGaussian(num_coordinates=1, order=1, process_std=(0.1,)))
        >>> posterior = Posterior.from_fitted(model, MeanField(model, batch), batch)
        >>> {name: tuple(value.shape) for name, value in posterior.sample(5).items()}
        {'s': (5, 1, 1, 8, 1), 'w': (5, 1, 8, 1)}
        >>> posterior.predictive(5)["o"].shape
        torch.Size([5, 1, 8, 1, 1])
    """

    model: MixDVAE
    guide: MeanField
    batch: MixtureBatch

    def __post_init__(self) -> None:
        extra = self.batch.num_sources + self.model.num_extra
        expected = (*self.batch.mask.shape, extra)
        if self.guide.responsibilities.shape != expected:
            raise ShapeError(
                mismatch(
                    "guide.responsibilities",
                    given=f"shape {tuple(self.guide.responsibilities.shape)}",
                    expected=f"{expected}, as the batch and the model have it",
                    hint="Was the guide fitted to another batch, or to several starts of it?",
                )
            )

    @classmethod
    def from_fitted(cls, model: MixDVAE, guide: MeanField, batch: MixtureBatch) -> "Posterior":
        """Return the posterior that a guide fitted by any stepper stands for."""
        return cls(model, guide, batch)

    # ---- draws and densities

    @torch.no_grad()
    def sample(self, num_samples: int) -> Draws:
        """Draw from q, shapes as in the class docstring."""
        if num_samples < 1:
            raise ValueError(mismatch("num_samples", given=num_samples, expected="at least 1"))
        recorder = self._run(self.guide, num_samples)
        draws = {name: self._inward(name, site["value"]) for name, site in recorder.sites.items()}
        draws["w"] = draws["w"].masked_fill(~self.batch.mask, -1)
        return draws

    @torch.no_grad()
    def log_prob(
        self,
        draws: Mapping[str, Tensor],  # every site of `sample`, in its shapes
    ) -> Tensor:  # nats, shape: (n, B)
        """Return log q(s, v, w, z): densities of s and z, probabilities of v and w."""
        sites = self._run(self.guide, len(draws["w"]), draws).sites
        return self._total(sites, len(draws["w"]))

    @torch.no_grad()
    def log_joint(
        self,
        draws: Mapping[str, Tensor],  # every site of `sample`, in its shapes
    ) -> Tensor:  # nats, shape: (n, B)
        """Return log p(o, s, v, w, z) at the draws and the observations of the batch."""
        sites = self._run(self.model, len(draws["w"]), draws).sites
        return self._total(sites, len(draws["w"]))

    # ---- predictions

    @torch.no_grad()
    def predictive(
        self,
        num_samples: int | None = None,
        *,
        draws: Mapping[str, Tensor] | None = None,
    ) -> Draws:  # {"o": (n, B, T, K, X)}
        """Draw o' ~ p(o' | s, w) with s, w ~ q(s) q(w): what could have been observed instead.

        Two stages, both explicit: latents from the guide, among them the owner w of every
        observation, then observations from the model given them. `Predictive(model, guide)` given
        the batch would return the batch, and without `w` would draw the owners from the prior.

        Zero where the batch has no observation.

        Args:
            num_samples: n; drawn here.
            draws: use these draws of `sample` in place of new ones.
        """
        if (num_samples is None) == (draws is None):
            raise ValueError("predictive: give either num_samples or draws")
        draws = self.sample(num_samples) if draws is None else draws

        def generate(batch: MixtureBatch) -> Tensor:
            return self.model(batch, generate=True)

        replica = self._run(generate, len(draws["w"]), draws).sites["o"]["value"]
        return {"o": replica.masked_fill(~self.batch.mask[..., None], 0.0)}

    @torch.no_grad()
    def log_likelihood(
        self,
        draws: Mapping[str, Tensor],  # of `sample`; s is read, and v with weights="prior"
        *,
        weights: Literal["posterior", "prior"] = "posterior",
    ) -> Tensor:  # nats, shape: (n, B, T, K)
        r"""Return log \sum_j weight_tkj p(o_tk | w_tk = j, s) of every observation and draw of s.

        Zero where the batch has no observation.

        Args:
            draws: as `sample` returns them.
            weights: "posterior" takes the responsibilities q(w_tk = j), which have seen o_tk: how
                well the fit explains the data. "prior" takes p(w_tk = j | v): the likelihood of
                the other latents, which leave-one-out estimates (`arviz.loo`) need.
        """
        location = self.model.project(draws["s"])  # (n, B, N, T, K or 1, X)
        scale = self.model.variance(self.batch).sqrt().unsqueeze(1)
        observations = self.batch.observations.unsqueeze(1)
        log_parts = dist.Normal(location, scale).log_prob(observations).sum(-1).movedim(2, -1)
        if self.model.detector is not None:
            clutter = self.model.clutter(self.batch).log_prob(self.batch.observations)
            clutter = clutter.expand(log_parts.shape[:-1]).unsqueeze(-1)
            log_parts = torch.cat((log_parts, clutter), -1)
        tiny = torch.finfo(log_parts.dtype).tiny
        if weights == "posterior":
            log_weight = self.guide.responsibilities.clamp_min(tiny).log()
        elif weights == "prior":
            log_weight = self._log_prior_weight(draws)
        else:
            expected = "posterior or prior"
            raise ValueError(mismatch("weights", given=repr(weights), expected=expected))
        total = (log_weight + log_parts).logsumexp(-1)
        return total.masked_fill(~self.batch.mask, 0.0)

    # ---- ArviZ

    def to_inference_data(
        self,
        num_samples: int = 100,
        *,
        trace: Mapping[str, Sequence[Tensor]] | None = None,
        weights: Literal["posterior", "prior"] = "posterior",
        feature_names: Sequence[str] | None = None,
        batch_names: Sequence[str] | None = None,
    ) -> Any:
        """Return `arviz.InferenceData`, or from ArviZ 1 on its successor, `xarray.DataTree`.

        `s` is split into the observed coordinates (feature) and what the prior carries with each
        (component: position, velocity, ...). Missing observations are NaN in `observed_data` and
        `posterior_predictive`, as ArviZ has it, and zero in `log_likelihood`.

        Args:
            num_samples: draws, all in one chain: they are independent.
            trace: the bound after each sweep: phase -> tensors of shape (R * B,), R starts.
            weights: of `log_likelihood`.
            feature_names: names of the X numbers of an observation; None numbers them, or names
                those of a box where the model has a detector.
            batch_names: one name for each sequence; None numbers them.
        """
        draws = self.sample(num_samples)
        absent = ~self.batch.mask
        observed = self.batch.observations.masked_fill(absent[..., None], torch.nan)
        replica = self.predictive(draws=draws)["o"].masked_fill(absent[..., None], torch.nan)
        pointwise = self.log_likelihood(draws, weights=weights)
        stats = {"lp": self.log_joint(draws), "log_q": self.log_prob(draws)}
        frame_slot = ("batch", "frame", "observation")
        groups: dict[str, dict[str, Variable]] = {
            "posterior": self._posterior_group(draws),
            "posterior_predictive": {"o": _drawn((*frame_slot, "feature"), replica)},
            "log_likelihood": {"o": _drawn(frame_slot, pointwise)},
            "sample_stats": {name: _drawn(("batch",), value) for name, value in stats.items()},
            "observed_data": {"o": ((*frame_slot, "feature"), _array(observed))},
            "constant_data": self._constant_group(),
        }
        if trace:
            groups["bound_trace"] = bound_trace(trace, self.batch.num_sequences)
        coords = self._coords(feature_names, batch_names)
        attrs = {"inference_library": "pyromodels", "log_likelihood_weights": weights}
        return arviz_io.inference_data(groups, coords=coords, attrs=attrs)

    def to_netcdf(self, path: Path, num_samples: int = 100, **options: Any) -> Path:
        """Write `to_inference_data(num_samples, **options)` to a file, whole or not at all."""
        return arviz_io.save(self.to_inference_data(num_samples, **options), path)

    # ---- from here on, plumbing

    def _run(
        self,
        program: Callable[[MixtureBatch], object],
        num_samples: int,
        draws: Mapping[str, Tensor] | None = None,
    ) -> "_Recorder":
        """Run a program once for all draws, vectorised; sites in `draws` take their values."""
        given = {name: self._outward(name, value) for name, value in (draws or {}).items()}
        with pyro.plate("draw", num_samples, dim=-self.model.max_plate_nesting - 1):
            with _Recorder() as recorder, pyro.condition(data=given):
                program(self.batch)
        return recorder

    def _total(self, sites: Mapping[str, dict[str, Any]], num_samples: int) -> Tensor:
        """Sum the log densities of sites over all but draws and sequences, shape (n, B)."""
        total = self.guide.loc.new_zeros(num_samples, self.batch.num_sequences)
        for site in sites.values():
            log_prob = site["fn"].log_prob(site["value"])
            log_prob = scale_and_mask(log_prob, site["scale"], site["mask"])
            inner = log_prob.shape[2:]
            total += log_prob.expand(*total.shape, *inner).flatten(2).sum(-1)
        return total

    def _outward(self, name: str, value: Tensor) -> Tensor:
        """From our shapes to those of the sites: sources live beside a frame plate of size one."""
        return value.clamp_min(0) if name == "w" else value.unsqueeze(2)

    def _inward(self, name: str, value: Tensor) -> Tensor:
        """From the shapes of the sites to ours."""
        return value if name == "w" else value.squeeze(2)

    def _log_prior_weight(self, draws: Mapping[str, Tensor]) -> Tensor:
        """log p(w_tk | v), shape (n, B, T, 1, N [+ 1])."""
        detector = self.model.detector
        if detector is None:
            num_sources = self.batch.num_sources
            return self.guide.loc.new_full((num_sources,), 1 / num_sources).log()
        rates = detector.log_rates(draws["v"]).transpose(-1, -2)
        clutter = rates.new_full((*rates.shape[:-1], 1), detector.clutter_rate).log()
        return torch.cat((rates, clutter), -1).log_softmax(-1).unsqueeze(-2)

    def _posterior_group(self, draws: Mapping[str, Tensor]) -> dict[str, Variable]:
        path = ("batch", "source", "frame")
        blocks = draws["s"].unflatten(-1, (-1, self.model.prior.block_dim))
        observed = blocks.shape[-2] == self.batch.observations.shape[-1]
        feature = "feature" if observed else "coordinate"
        group = {"s": _drawn((*path, feature, "component"), blocks)}
        for name, value in draws.items():
            if name == "v":
                group["v"] = _drawn(path, value.to(torch.int8))
            elif name == "w":
                group["w"] = _drawn(("batch", "frame", "observation"), value.to(torch.int16))
            elif name != "s":
                group[name] = _drawn((*path, "latent"), value)
        return group

    def _constant_group(self) -> dict[str, Variable]:
        frame_slot, start = ("batch", "frame", "observation"), ("batch", "source", "state")
        absent = ~self.batch.mask[..., None]
        variance = self.model.variance(self.batch).masked_fill(absent, torch.nan)
        return {
            "mask": (frame_slot, _array(self.batch.mask)),
            "variance": ((*frame_slot, "feature"), _array(variance)),
            "anchor_loc": (start, _array(self.batch.anchor.loc)),
            "anchor_variance": (start, _array(self.batch.anchor.variance)),
        }

    def _coords(
        self, feature_names: Sequence[str] | None, batch_names: Sequence[str] | None
    ) -> dict[str, Sequence[Any]]:
        if feature_names is None and self.model.detector is not None:
            feature_names = BOX
        given = {
            "feature": feature_names,
            "batch": batch_names,
            "component": getattr(self.model.prior, "component_names", None),
        }
        return {name: list(values) for name, values in given.items() if values is not None}


def bound_trace(
    trace: Mapping[str, Sequence[Tensor]],  # phase -> one tensor (R * B,) a sweep
    num_sequences: int,
) -> dict[str, Variable]:
    """Return the bound of every phase as an array (sweep, start, batch), nats.

    Phases differ in their sweeps and starts, and so has each its own dimensions. A phase that ran
    twice, with all starts and then with the best alone, becomes two: `final` and `final_2`.
    """
    group: dict[str, Variable] = {}
    for phase, values in trace.items():
        sizes = dict.fromkeys(len(value) for value in values)
        for run, size in enumerate(sizes, start=1):
            name = phase if run == 1 else f"{phase}_{run}"
            if size % num_sequences:
                raise ShapeError(
                    mismatch(
                        f"trace[{phase!r}]",
                        given=f"{size} bounds a sweep",
                        expected=f"a multiple of {num_sequences}, one for each start and sequence",
                    )
                )
            stacked = torch.stack([value for value in values if len(value) == size])
            stacked = stacked.unflatten(-1, (-1, num_sequences))
            group[name] = ((f"{name}_sweep", f"{name}_start", "batch"), _array(stacked))
    return group


class _Recorder(Messenger):
    """Keeps the sample sites of a run, plates left out."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, dict[str, Any]] = {}

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if not site_is_subsample(msg):
            self.sites[msg["name"]] = msg


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def _drawn(dims: tuple[str, ...], value: Tensor) -> Variable:
    """A variable of one chain of draws."""
    return ("chain", "draw", *dims), _array(value)[None]
