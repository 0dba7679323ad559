"""The short-time Fourier transform of every audio model here, and its inverse."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyromodels.errors import ShapeError, mismatch, misshapen


@dataclass(frozen=True)
class STFT:
    r"""Centred frames of a sine window, zeros beyond both ends of the signal, no scaling.

    .. math:: X_{tf} = \sum_{i=0}^{M-1} \sin\!\big(\tfrac{\pi (i + 1/2)}{M}\big)\,
              x_{tH + i - M/2}\; e^{-2 \pi \mathrm{i} f i / M}

    ==========  ================  =========  =================
    symbol      name in code      size       unit
    ==========  ================  =========  =================
    M           ``window``        -          samples
    H           ``hop``           -          samples
    F           ``num_bins``      M/2 + 1    -
    T           ``num_frames``    -          -
    ==========  ================  =========  =================

    Time comes before frequency, as everywhere in this library. Frame t is centred on sample t H.

    Args:
        window: samples of a frame, an even number.
        hop: samples between two frames, at most half a window so that all samples can come back.

    Reference:
        D. W. Griffin, J. S. Lim, "Signal estimation from modified short-time Fourier transform",
        1984, eq. 6: the inverse of a spectrum that no signal has is its least-squares signal.

    Raises:
        ValueError: for a window or hop outside these ranges.

    Example:
        >>> stft = STFT(window=64, hop=16)
        >>> signal = torch.sin(torch.arange(160.0))
        >>> spectrum = stft.analyse(signal)
        >>> spectrum.shape
        torch.Size([11, 33])
        >>> torch.allclose(stft.synthesise(spectrum), signal, atol=1e-6)
        True
    """

    window: int = 1024
    hop: int = 256

    def __post_init__(self) -> None:
        """Check the two lengths."""
        if self.window < 2 or self.window % 2:
            raise ValueError(mismatch("window", given=self.window, expected="an even number >= 2"))
        if not 1 <= self.hop <= self.window // 2:
            raise ValueError(mismatch("hop", given=self.hop, expected=f"1 to {self.window // 2}, "
                                      f"half of window={self.window}"))

    @property
    def num_bins(self) -> int:
        """Number of frequencies F, from zero to half of the sample rate."""
        return self.window // 2 + 1

    def num_frames(self, num_samples: int) -> int:
        """Return T, the number of frames of a signal of so many samples."""
        return 1 + num_samples // self.hop

    def num_samples(self, num_frames: int) -> int:
        """Return (T - 1) H, the samples of the shortest signal that has T frames."""
        return (num_frames - 1) * self.hop

    def analyse(
        self,
        signal: Tensor,               # shape: (*, n)
    ) -> Tensor:                      # complex, shape: (*, T, F)
        """Return the spectrum of every frame.

        Raises:
            ShapeError: for a signal without samples.
        """
        if signal.ndim == 0 or signal.shape[-1] == 0:
            raise misshapen("signal", signal.shape, "(*, n) with at least one sample")
        batch, num_frames = signal.shape[:-1], self.num_frames(signal.shape[-1])
        if signal.numel() == 0:                             # some FFT libraries refuse no rows
            shape = (*batch, num_frames, self.num_bins)
            return signal.new_zeros(shape, dtype=signal.dtype.to_complex())
        spectrum = torch.stft(
            signal.reshape(-1, signal.shape[-1]), self.window, self.hop, window=self._sine(signal),
            center=True, pad_mode="constant", return_complex=True,
        )                                                                  # (rows, F, T)
        return spectrum.mT.reshape(*batch, num_frames, self.num_bins)

    def synthesise(
        self,
        spectrum: Tensor,             # complex, shape: (*, T, F)
        length: int | None = None,
    ) -> Tensor:                      # shape: (*, length)
        """Return the signal whose spectrum is nearest, exactly it for a spectrum of `analyse`.

        Args:
            spectrum: the frames.
            length: samples n of the signal; ``num_samples(T)`` unless given.

        Raises:
            ShapeError: for another number of bins, or a length that has not T frames.
        """
        if spectrum.ndim < 2 or spectrum.shape[-1] != self.num_bins or not spectrum.is_complex():
            raise ShapeError(mismatch("spectrum", given=f"{spectrum.dtype}, shape "
                                      f"{tuple(spectrum.shape)}", expected="complex, (*, T, "
                                      f"{self.num_bins})", hint="Is time before frequency?"))
        num_frames = spectrum.shape[-2]
        length = self.num_samples(num_frames) if length is None else length
        if length < 1 or self.num_frames(length) != num_frames:
            raise ShapeError(mismatch("length", given=length, expected=f"{num_frames} frames, "
                                      f"max(1, {self.num_samples(num_frames)}) to "
                                      f"{self.num_samples(num_frames + 1) - 1} samples"))
        if spectrum.numel() == 0:
            return spectrum.real.new_zeros(*spectrum.shape[:-2], length)
        rows = spectrum.reshape(-1, num_frames, self.num_bins).mT          # (rows, F, T)
        signal = torch.istft(
            rows, self.window, self.hop, window=self._sine(spectrum.real), center=True,
            length=length,
        )
        return signal.reshape(*spectrum.shape[:-2], length)

    def signal_variance(
        self,
        variance: Tensor,             # E|e|^2 of every bin, shape: (*, T, F)
    ) -> Tensor:                      # shape: (*, num_samples(T))
        r"""Return the variance of a synthesised signal whose bins err independently of each other.

        .. math:: v_n = \frac{\sum_t w_{n-tH}^2 u_t}{\big(\sum_t w_{n-tH}^2\big)^2},\quad
                  u_t = \frac{1}{M^2} \Big(2 \sum_{f=1}^{F-2} v_{tf} + \frac{v_{t0} + v_{t,F-1}}{2}
                  \Big)

        e is circular; of the first and the last bin the signal has the real part alone.

        Raises:
            ShapeError: for another number of bins.
        """
        if variance.ndim < 2 or variance.shape[-1] != self.num_bins:
            raise misshapen("variance", variance.shape, f"(*, T, {self.num_bins})")
        ends = variance[..., 0] + variance[..., -1]
        frames = (2 * variance.sum(-1) - 1.5 * ends) / self.window**2       # u, shape: (*, T)
        window = self._sine(frames).square()
        both = torch.stack((frames, torch.ones_like(frames)), -2).reshape(-1, 1, frames.shape[-1])
        added = torch.nn.functional.conv_transpose1d(both, window[None, None], stride=self.hop)
        inner = slice(self.window // 2, self.window // 2 + self.num_samples(frames.shape[-1]))
        up, down = added[:, 0, inner].reshape(*frames.shape[:-1], 2, -1).unbind(-2)
        return up / down.square()

    def _sine(self, like: Tensor) -> Tensor:                               # shape: (window,)
        ramp = torch.arange(self.window, dtype=torch.float64, device=like.device) + 0.5
        return torch.sin(torch.pi * ramp / self.window).to(like.dtype)
