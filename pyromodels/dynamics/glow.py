"""Glow: images and spectrograms at once, by invertible 1 x 1 convolutions and couplings."""

from typing import Any, ClassVar

from pyromodels.dynamics.flow_prior import FlowPrior
from pyromodels.errors import SpecError, mismatch
from pyromodels.networks.image_conditioner import ImageConditioner
from pyromodels.networks.zero_convolution import ZeroConvolution
from pyromodels.registry import DYNAMICS
from pyromodels.transforms.actnorm import ActNorm
from pyromodels.transforms.affine_coupling import AffineCoupling, halves
from pyromodels.transforms.base import Composition
from pyromodels.transforms.invertible_convolution import InvertibleConvolution
from pyromodels.transforms.multiscale import MultiScale


@DYNAMICS.register("glow")
class Glow(FlowPrior):
    r"""Glow, p(s) = N(f(s); 0, I) |det df/ds|, of an image (*, T, D): T frames of D bins.

        f     = levels, each: squeeze, flows; after all but the last a half is factored out
        flow  = ActNorm, invertible 1 x 1 convolution, affine coupling of a half,
                (g - mu) sigmoid(r + 2)
        N(m, exp(2 r)) of what is factored out, as a 3 x 3 convolution says of what goes on

    Densities are in nats, with the log-determinant; T and D are multiples of 2^num_levels. Data are
    continuous: whoever has levels of grey adds noise to them.

    Departure: all latents are returned, standardised. Published code returns those of the last
    level, a quarter of them with three, draws the others anew where it decodes, adds noise at every
    encoding, takes one batch size, and takes a temperature of 0 for 1.

    Reference: Kingma and Dhariwal, 2018, Glow: generative flow with invertible 1x1 convolutions,
    whose sizes for images of 64 x 64 are `presets["paper"]`.

    Args:
        source_dim: D.
        num_levels: squeezes.
        num_flows: of a level.
        width: of the networks that tell couplings.
        noise_conditioned: whether its networks are told of the noise; see `FlowPrior`.

    Raises:
        SpecError: a size below 1, or a D that the levels cannot squeeze.

    Example:
        >>> import torch
        >>> prior = Glow(source_dim=8, num_levels=2, num_flows=1, width=4).eval()
        >>> [code.numel() for code in prior.codes(torch.zeros(8, 8))]
        [32, 32]
    """

    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = (
        {"source_dim": 2, "num_levels": 1, "num_flows": 2, "width": 3},
        {"source_dim": 4, "num_levels": 2, "num_flows": 1, "width": 3, "noise_conditioned": True},
    )
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"num_levels": 3, "num_flows": 32, "width": 512},
        "small": {"num_levels": 3, "num_flows": 4, "width": 64},
    }

    def __init__(
        self,
        *,
        source_dim: int = 64,
        num_levels: int = 3,
        num_flows: int = 4,
        width: int = 64,
        noise_conditioned: bool = False,
    ) -> None:
        given = {"num_levels": num_levels, "num_flows": num_flows, "width": width}
        for name, size in given.items():
            if size < 1:
                raise SpecError(mismatch(name, given=size, expected="1 or more"))
        noise_dim = width if noise_conditioned else 0

        def flow(channels: int) -> list:
            said = ImageConditioner(channels // 2, channels, width=width, told_dim=noise_dim)
            return [
                ActNorm(channels, space_dim=2),
                InvertibleConvolution(channels, space_dim=2),
                AffineCoupling(said, halves(channels), space_dim=2, bound="sigmoid"),
            ]

        channels = [4 * 2**level for level in range(num_levels)]
        levels = [
            Composition(part for _ in range(num_flows) for part in flow(number))
            for number in channels
        ]
        priors = [
            ZeroConvolution(number // 2, number, kernel_size=3, space_dim=2, told_dim=noise_dim)
            for number in channels[:-1]
        ]
        scales = MultiScale(levels, [*priors, None], space_dim=2)
        super().__init__(scales, source_dim, noise_dim=noise_dim)
