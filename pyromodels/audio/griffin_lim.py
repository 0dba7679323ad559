"""A signal for a magnitude spectrogram that has lost its phase."""

import torch
from torch import Tensor

from pyromodels.audio.stft import STFT
from pyromodels.errors import mismatch, misshapen


def griffin_lim(
    magnitude: Tensor,                # shape: (*, T, F)
    stft: STFT,
    *,
    iterations: int = 100,
    momentum: float = 0.99,
    generator: torch.Generator | None = None,
) -> Tensor:                          # shape: (*, (T - 1) hop)
    r"""Return a signal whose spectrogram is close to ``magnitude``, by fast Griffin-Lim.

    With P the projection on the spectra that a signal has (inverse transform, then transform) and
    m / |.| that on the spectra of the wanted magnitude,

    .. math:: c_k = P\big(m\, y_{k-1} / |y_{k-1}|\big), \qquad
              y_k = c_k + \alpha\, (c_k - c_{k-1}), \qquad y_0 \text{ of random phase}.

    Args:
        magnitude: m, the square root of a power spectrogram.
        stft: the transform that m belongs to.
        iterations: number of steps; 0 leaves the phase random.
        momentum: alpha. At 0 the method of 1984, which never moves away from m; nearer 1 it is
            faster, not monotone.
        generator: of the first phase.

    Reference:
        N. Perraudin, P. Balazs, P. L. Sondergaard, "A fast Griffin-Lim algorithm", WASPAA 2013,
        algorithm 2.

    Raises:
        ShapeError: for another number of bins, or fewer than two frames.
        ValueError: for a negative or infinite magnitude, iterations < 0, momentum outside [0, 1).

    Example:
        >>> stft = STFT(window=64, hop=16)
        >>> wanted = stft.analyse(torch.sin(torch.arange(480.0))).abs()
        >>> seed = torch.Generator().manual_seed(0)
        >>> found = stft.analyse(griffin_lim(wanted, stft, generator=seed)).abs()
        >>> bool((found - wanted).norm() < 0.1 * wanted.norm())
        True
    """
    if magnitude.ndim < 2 or magnitude.shape[-1] != stft.num_bins or magnitude.shape[-2] < 2:
        expected = f"(*, T, {stft.num_bins}) with T >= 2"
        raise misshapen("magnitude", magnitude.shape, expected)
    if not (torch.isfinite(magnitude) & (magnitude >= 0)).all():
        raise ValueError(mismatch("magnitude", given="a negative, infinite or NaN entry",
                                  expected="finite magnitudes >= 0"))
    if iterations < 0:
        raise ValueError(mismatch("iterations", given=iterations, expected="at least 0"))
    if not 0 <= momentum < 1:
        raise ValueError(mismatch("momentum", given=momentum, expected="a number in [0, 1)"))
    angle = 2 * torch.pi * torch.rand(
        magnitude.shape, generator=generator, dtype=magnitude.dtype,
        device=magnitude.device if generator is None else generator.device,
    ).to(magnitude.device)
    spectrum = torch.polar(magnitude, angle)
    previous = torch.zeros_like(spectrum)
    for step in range(iterations):
        consistent = stft.analyse(stft.synthesise(spectrum))
        # There is no c_0, hence no momentum in the first step.
        drift = momentum * (consistent - previous) if step else 0
        spectrum, previous = magnitude * torch.sgn(consistent + drift), consistent
    return stft.synthesise(spectrum)
