"""FloWaveNet: raw audio at once, by couplings that a WaveNet tells."""

from typing import Any, ClassVar

from pyromodels.dynamics.flow_prior import FlowPrior
from pyromodels.errors import SpecError, mismatch
from pyromodels.networks.wavenet import WaveNet
from pyromodels.registry import DYNAMICS
from pyromodels.transforms.actnorm import ActNorm
from pyromodels.transforms.affine_coupling import AffineCoupling, halves
from pyromodels.transforms.base import Composition
from pyromodels.transforms.multiscale import MultiScale


@DYNAMICS.register("flowavenet")
class FloWaveNet(FlowPrior):
    r"""FloWaveNet, p(s) = N(f(s); 0, I) |det df/ds|, of a signal (*, T, D): all samples at once.

        f      = blocks, each: squeeze, flows; after some of them a half is factored out
        flow   = ActNorm, then an affine coupling: one half of the channels moves, the next time
                 the other, (g - mu) exp(-s), as a WaveNet that looks both ways says of the half
                 that is kept
        N(m, exp(2 r)) of what is factored out, as a WaveNet of two layers says of what goes on

    Densities are in nats, with the log-determinant; T is a multiple of 2^num_blocks.

    Departure: all latents are returned, standardised. Published code reports log p(z) without the
    log-determinant and trains with a quarter of it.

    Reference: Kim, Lee, Song, Kim and Yoon, 2019, FloWaveNet: a generative flow for raw audio;
    Frank and Ilse, 2020, Problems using deep generative models for probabilistic audio source
    separation, Table 2, whose sizes are `presets["paper"]`.

    Args:
        source_dim: D, channels of the signal.
        num_blocks: squeezes.
        num_flows: of a block.
        num_layers: of a WaveNet, dilated by 1, 2, ..., 2^(num_layers - 1).
        width: of a WaveNet.
        blocks_per_split: after how many blocks a half is factored out.
        weight_norm: whether convolutions are normalised; see `fold_weight_norm`.
        noise_conditioned: whether its networks are told of the noise; see `FlowPrior`.

    Raises:
        SpecError: a size below 1.

    Example:
        >>> import torch
        >>> prior = FloWaveNet(num_blocks=2, num_flows=1, num_layers=2, width=4).eval()
        >>> prior.log_prob(torch.zeros(3, 16, 1)).shape
        torch.Size([3])
    """

    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = (
        {"num_blocks": 1, "num_flows": 2, "num_layers": 2, "width": 3},
        {"source_dim": 2, "num_blocks": 2, "blocks_per_split": 1, "num_flows": 1, "num_layers": 1,
         "width": 2, "weight_norm": True, "noise_conditioned": True},
    )  # fmt: skip
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "num_blocks": 4, "num_flows": 6, "num_layers": 10, "width": 32, "weight_norm": True,
        },
        "small": {"num_blocks": 3, "num_flows": 4, "num_layers": 6, "width": 16},
    }  # fmt: skip

    def __init__(
        self,
        *,
        source_dim: int = 1,
        num_blocks: int = 3,
        num_flows: int = 4,
        num_layers: int = 6,
        width: int = 16,
        blocks_per_split: int = 2,
        weight_norm: bool = False,
        noise_conditioned: bool = False,
    ) -> None:
        given = {"num_blocks": num_blocks, "num_flows": num_flows, "num_layers": num_layers,
                 "width": width, "blocks_per_split": blocks_per_split}  # fmt: skip
        for name, size in given.items():
            if size < 1:
                raise SpecError(mismatch(name, given=size, expected="1 or more"))
        noise_dim = width if noise_conditioned else 0

        def network(in_dim: int, out_dim: int, num_layers: int) -> WaveNet:
            return WaveNet(
                in_dim, out_dim, width=width, num_layers=num_layers, post_kernel_size=3,
                told_dim=noise_dim, weight_norm=weight_norm,
            )

        levels, priors, channels = [], [], source_dim
        for block in range(1, num_blocks + 1):
            channels *= 2
            parts = []
            for number in range(num_flows):
                moves = halves(channels, moved="first" if number % 2 else "second")
                said = network(channels // 2, channels, num_layers)
                parts += [ActNorm(channels), AffineCoupling(said, moves)]
            levels.append(Composition(parts))
            splits = block % blocks_per_split == 0 and block < num_blocks
            priors.append(network(channels // 2, channels, 2) if splits else None)
            channels //= 1 + splits
        super().__init__(MultiScale(levels, priors), source_dim, noise_dim=noise_dim)
