"""Non-negative matrix factorisation: dictionaries of every source, learnt beforehand."""

import torch
from torch import Tensor

from pyromodels.experiments.separation.baselines.oracles import oracle_wiener


def divergence(
    magnitude: Tensor,  # X, shape: (F, R)
    model: Tensor,  # W H, shape: (F, R)
) -> Tensor:  # shape: ()
    """Return the generalised Kullback-Leibler divergence of a model from magnitudes."""
    return (torch.xlogy(magnitude, magnitude / model) - magnitude + model).sum()


def factorise(
    magnitude: Tensor,  # X, shape: (F, R)
    dictionary: Tensor,  # W, shape: (F, K)
    activations: Tensor,  # H, shape: (K, R)
    updates: int,
    *,
    learn_dictionary: bool,
    eps: float = 1e-10,
) -> tuple[Tensor, Tensor]:
    r"""Return W and H after multiplicative updates; each one lowers D_KL(X || W H).

        H <- H * W'(X / WH) / W'1,      W <- W * (X / WH) H' / 1 H',  columns of W summing to one

    Reference: Lee and Seung, 2001, Algorithms for non-negative matrix factorization.
    """
    w, h = dictionary, activations
    for _ in range(updates):
        h = h * (w.T @ (magnitude / (w @ h + eps))) / (w.sum(0)[:, None] + eps)
        if learn_dictionary:
            w = w * ((magnitude / (w @ h + eps)) @ h.T) / (h.sum(1) + eps)
            total = w.sum(0) + eps
            w, h = w / total, h * total[:, None]
    return w, h


class NMF:
    """Non-negative matrix factorisation, one dictionary a source, magnitudes, Wiener masks.

    Args:
        recordings: spectra of each kind of source, complex, shape (R, F) each.
        num_atoms: K of a source.
        num_frames: of the recordings that a dictionary is learnt from.
        updates: multiplicative updates of a dictionary.
        seed: of the frames chosen and of the start.
    """

    def __init__(
        self,
        recordings: list[Tensor],
        *,
        num_atoms: int = 128,
        num_frames: int = 8000,
        updates: int = 80,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.num_atoms, dictionaries = num_atoms, []
        for spectrum in recordings:
            magnitude = spectrum.abs()
            loud = magnitude[magnitude.square().mean(-1) > 1e-3 * magnitude.square().mean()]
            chosen = loud[torch.randperm(len(loud), generator=generator)[:num_frames]].T
            w = torch.rand(len(chosen), num_atoms, generator=generator) + 0.1
            h = torch.rand(num_atoms, chosen.shape[1], generator=generator) + 0.1
            w, _ = factorise(chosen, w / w.sum(0), h, updates, learn_dictionary=True)
            dictionaries.append(w)
        self.dictionary = torch.cat(dictionaries, 1)

    def masks(
        self,
        mixture: Tensor,  # complex, shape: (B, T, F)
        updates: int = 150,
    ) -> Tensor:  # shape: (B, N, T, F)
        """Return the share of every source in the modelled power."""
        _, h = self.activations(mixture, updates)
        return self.shares(h, mixture.shape[:2])

    def activations(
        self,
        mixture: Tensor,  # complex, shape: (B, T, F)
        updates: int,
    ) -> tuple[Tensor, Tensor]:  # W, shape: (F, N K); H, shape: (N K, B T)
        """Return the dictionaries of all sources, and how much of each atom a mixture has."""
        magnitude = mixture.abs().flatten(0, 1).T
        start = magnitude.mean().expand(self.dictionary.shape[1], magnitude.shape[1])
        return factorise(magnitude, self.dictionary, start, updates, learn_dictionary=False)

    def shares(
        self,
        activations: Tensor,  # H, shape: (N K, B T)
        batch_shape: torch.Size,  # (B, T)
    ) -> Tensor:  # shape: (B, N, T, F)
        """Return the share of every source in the power that the activations model."""
        w, h = self.dictionary, activations
        parts = zip(w.split(self.num_atoms, 1), h.split(self.num_atoms, 0), strict=True)
        models = torch.stack([(a @ b).T.unflatten(0, batch_shape) for a, b in parts], 1)
        return oracle_wiener(models)
