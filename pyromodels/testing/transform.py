"""What every transform must fulfil, ours or yours."""

import torch
from pyro.distributions.transforms import AffineTransform, Permute
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.transforms import ComposeTransform


def check_transform(
    transform: Transform,
    z: Tensor,  # where to try it, shape: (*batch, D)
) -> None:
    """Check a transform of vectors; raise `AssertionError` where the contract is broken.

    * There and back is where it started.
    * Its log-determinant is that of the numerical Jacobian, known forwards and backwards.
    * A cache hands back the very tensor that came in, and the same log-determinant.
    * Composed with transforms of torch and Pyro it still has all of this.
    """
    middle = AffineTransform(torch.full_like(z[..., :1], 0.3), 1.7)
    middle = torch.distributions.transforms.IndependentTransform(middle, 1)
    turned = Permute(torch.arange(z.shape[-1]).flip(0))
    for tried in (transform, ComposeTransform([transform, turned, middle, transform])):
        check_inverse(tried, z)
        check_log_det(tried, z)
    check_cache(transform, z)


def check_inverse(transform: Transform, z: Tensor) -> None:
    """There and back, from either side."""
    x = transform(z)
    assert x.shape == z.shape, tuple(x.shape)
    torch.testing.assert_close(transform.inv(x), z)
    torch.testing.assert_close(transform(transform.inv(z)), z)


def check_log_det(transform: Transform, z: Tensor) -> None:
    """log |det dx/dz| is that of the Jacobian, row by row, and its inverse's is the negative."""
    x = transform(z)
    jacobian = torch.autograd.functional.jacobian(lambda v: transform(v).flatten(0, -2).sum(0), z)
    expected = torch.linalg.slogdet(jacobian.movedim(0, -2))[1]
    log_det = transform.log_abs_det_jacobian(z, x)
    assert log_det.shape == z.shape[:-1], tuple(log_det.shape)
    torch.testing.assert_close(log_det, expected)
    torch.testing.assert_close(transform.inv.log_abs_det_jacobian(x, z), -expected)


def check_cache(transform: Transform, z: Tensor) -> None:
    """With a cache, the inverse of what was just computed is the tensor it was computed from."""
    cached = transform.with_cache(1)
    x = cached(z)
    assert cached.inv(x) is z, "the cache forgot z"
    x = x.clone()
    back = cached.inv(x)
    assert cached(back) is x, "the cache forgot x"
    log_dets = cached.log_abs_det_jacobian(back, x), transform.log_abs_det_jacobian(back, x)
    torch.testing.assert_close(*log_dets)
    other = x + 0.1  # not what the cache knows
    torch.testing.assert_close(
        cached.log_abs_det_jacobian(transform.inv(other), other),
        transform.log_abs_det_jacobian(transform.inv(other), other),
    )
