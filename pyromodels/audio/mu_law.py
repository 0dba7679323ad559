r"""The mu-law: a signal in [-1, 1] as one of a few classes, finer where it is quiet.

    y = sign(s) log(1 + mu |s|) / log(1 + mu),    class = round((y + 1) mu / 2),    mu = classes - 1

Published code of raw audio has 255 classes and divides by log(mu); this is ITU-T G.711 as WaveNet
uses it. With an even number of classes none of them is silence: the two nearest are +-1 / mu of y.
"""

import math

import torch
from torch import Tensor


def companded(
    s: Tensor,  # shape: (*)
    num_classes: int = 256,
) -> Tensor:  # y in [-1, 1], shape: (*)
    """Return y; what is beyond [-1, 1] counts as the end of it.

    Example:
        >>> companded(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-1.,  0.,  1.])
    """
    mu = num_classes - 1
    s = s.clamp(-1.0, 1.0)
    return s.sign() * torch.log1p(mu * s.abs()) / math.log1p(mu)


def encode(
    s: Tensor,  # shape: (*)
    num_classes: int = 256,
) -> Tensor:  # int64, 0 to num_classes - 1, shape: (*)
    """Return the class of every sample.

    Example:
        >>> encode(torch.tensor([-1.0, -0.001, 0.001, 1.0]))
        tensor([  0, 122, 133, 255])
    """
    return ((companded(s, num_classes) + 1) * (0.5 * (num_classes - 1))).round().long()


def decode(
    classes: Tensor,  # shape: (*)
    num_classes: int = 256,
    *,
    dtype: torch.dtype | None = None,  # None: the default one
) -> Tensor:  # in [-1, 1], shape: (*)
    """Return the sample in the middle of every class.

    Example:
        >>> classes = torch.arange(256)
        >>> torch.equal(encode(decode(classes)), classes)
        True
    """
    mu = num_classes - 1
    y = 2 * classes.to(dtype or torch.get_default_dtype()) / mu - 1
    return y.sign() * torch.expm1(y.abs() * math.log1p(mu)) / mu
