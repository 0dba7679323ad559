"""LigHT-DVAE: HiT-DVAE with one decoder for z and for s."""

from pyromodels.dynamics.hierarchical import HierarchicalTransformer
from pyromodels.registry import DYNAMICS


@DYNAMICS.register("light")
class LigHT(HierarchicalTransformer):
    r"""Light hierarchical Transformer dynamical variational autoencoder, LigHT-DVAE.

    Joint, posterior and symbols are those of `pyromodels.dynamics.hit.HiT` (7.1, 7.6); the layers
    and embeddings of one decoder serve both conditionals, whose dependences differ by one frame:

        e_t                   = embed(x_{t-1}),  x_0 = 0,  z_0 = 0
        z_t | s_<t, z_<t, w   ~ N(head(decoder(queries [z_{t-1}, w], memory e_t)))
        s_t | s_<t, z_<=t, w  ~ emission(head'(decoder(queries [z_t, w], memory e_t)))

    `inverted` changes the roles where s is decoded alone; `residual=False` is the one decoder's.

    Reference: Lin, 2024 (thesis), section 7.3.4. Arguments are those of `HierarchicalTransformer`;
    of their sizes, see `HiT`.

    Example:
        >>> import torch
        >>> prior = LigHT(source_dim=2)
        >>> w = torch.zeros(3, prior.global_dim)
        >>> prior.given(w).sample_sources("s", 10).shape
        torch.Size([3, 10, 2])
    """

    one_decoder = True
