"""What every transform must fulfil, ours or yours."""

from functools import partial

import torch
from pyro.distributions.transforms import AffineTransform, Permute
from torch import Tensor, nn
from torch.distributions import Transform
from torch.distributions.transforms import ComposeTransform, IndependentTransform

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
"""As close as rounding of float64 leaves two numbers."""


def check_transform(
    transform: Transform,
    z: Tensor,  # where to try it, shape: (*batch, *event)
) -> None:
    """Check a transform; raise `AssertionError` where the contract is broken.

    * There and back is where it started.
    * Its log-determinant is that of the numerical Jacobian, known forwards and backwards.
    * A cache hands back the very tensor that came in, and the same log-determinant.
    * Composed with transforms of torch and Pyro it still has all of this.
    * Every parameter gets a gradient, from either direction.
    """
    z = z.detach()
    check_inverse(transform, z)
    check_log_det(transform, z)
    if transform.forward_shape(z.shape) == z.shape:
        middle = IndependentTransform(AffineTransform(torch.full_like(z[..., :1], 0.3), 1.7), 1)
        turned = Permute(torch.arange(z.shape[-1]).flip(0))
        composed = ComposeTransform([transform, turned, middle, transform])
        check_inverse(composed, z)
        check_log_det(composed, z)
    check_cache(transform, z)
    check_gradients(transform, z)


def check_inverse(transform: Transform, z: Tensor) -> None:
    """There and back, from either side."""
    x = transform(z)
    assert x.shape == transform.forward_shape(z.shape), tuple(x.shape)
    assert transform.inverse_shape(x.shape) == z.shape
    close(transform.inv(x), z)
    other = x.flip(0)  # any data but that which was made
    close(transform(transform.inv(other)), other)


def check_log_det(transform: Transform, z: Tensor) -> None:
    """log |det dx/dz| is that of the whole Jacobian, by batch; its inverse's is the negative."""
    batch = z.shape[: z.dim() - transform.domain.event_dim]
    x = transform(z)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: transform(v).flatten(len(batch)).reshape(batch.numel(), -1).sum(0), z
    )  # (size of x, *batch, *event)
    square = jacobian.flatten(1 + len(batch)).movedim(0, -2)
    expected = torch.linalg.slogdet(square)[1]
    log_det = transform.log_abs_det_jacobian(z, x)
    assert log_det.shape == batch, tuple(log_det.shape)
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


def check_gradients(transform: Transform, z: Tensor) -> None:
    """Every parameter of its networks gets a finite, non-zero gradient, from either direction."""
    networks = transform if isinstance(transform, nn.Module) else getattr(transform, "flow", None)
    if networks is None:
        return
    x = transform(z).detach()
    routes = {
        "density": lambda: transform.log_abs_det_jacobian(z, x).sum()
        + transform.inv(x).pow(3).sum(),
        "draws": lambda: transform(z).pow(3).sum(),
    }
    named = {name: p for name, p in networks.named_parameters() if p.requires_grad}
    for route, objective in routes.items() if named else ():
        gradients = torch.autograd.grad(objective(), list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            assert gradient is not None, f"{name} gets no gradient through {route}"
            assert gradient.isfinite().all(), f"{name}: infinite gradient through {route}"
            assert gradient.any(), f"{name}: zero gradient through {route}"
