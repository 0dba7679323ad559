"""HiT-DVAE: Transformers over time, and a latent of the whole sequence."""

from torch import Tensor, nn

from pyromodels.dynamics.hierarchical import HierarchicalTransformer, Streams
from pyromodels.networks import attention
from pyromodels.networks.mlp import join
from pyromodels.registry import DYNAMICS


@DYNAMICS.register("hit")
class HiT(HierarchicalTransformer):
    r"""Hierarchical Transformer dynamical variational autoencoder, HiT-DVAE.

        p(s, z, w)  = p(w) \prod_t p(s_t | s_{<t}, z_{<=t}, w) p(z_t | s_{<t}, z_{<t}, w)    (7.1)
        q(z, w | s) = q(w | s_{1:T}) \prod_t q(z_t | s_{1:T}, w)                            (7.6)

        w                     ~ N(0, I)                                                     (7.5)
        e_t                   = embed(x_{t-1}),  x_0 = 0
        z_t | s_<t, z_<t, w   ~ N(head(decoder_z(queries [e_t, w], memory z_{t-1})))        (7.4)
        s_t | s_<t, z_<=t, w  ~ emission(head(decoder_s(queries [z_t, w], memory e_t)))       (7.2)

    x is what the emission shows of s. Each decoder has its own layers; both see the one e. The
    reference finds that s_t is best asked for with z and not with s (`inverted`): what the decoder
    says of generated frames then stays close to what it says of true ones, under teacher forcing.

    ======  ============  ==================  ====================================
    symbol  name          shape               unit
    ======  ============  ==================  ====================================
    s       s             (*batch, T, D)      as the data
    x       x             (*batch, T, D)      what networks see
    z       z             (*batch, T, L_z)    1
    w       w             (*batch, L_w)       1
    e       embedded      (*batch, T, H)      1; H is model_dim
    ======  ============  ==================  ====================================

    The reference states the Transformers and the latents, but neither the sizes of features and
    LSTM nor where embeddings are shared: those of `sizes["paper"]` were chosen such that parameters
    add up to the reference's 21.75 million (LigHT-DVAE: 17.46), with 513 spectral bins.

    Reference: Lin, 2024 (thesis), chapter 7; Lin, Bie, Leglaive, Girin and Alameda-Pineda, 2023,
    Speech modeling with a hierarchical Transformer dynamical VAE. Arguments are those of
    `HierarchicalTransformer`.

    Example:
        Two spectrograms, resynthesised with the latents w of each other:

        >>> import torch
        >>> prior = HiT(source_dim=5, emission="spectral")
        >>> s = prior.sample_sources("s", 20, batch_shape=torch.Size([2]))
        >>> q = prior.infer(s, noise=None)
        >>> prior.given(q.w.flip(0)).own_history(s, q.z).shape
        torch.Size([2, 20, 5])
    """

    def build_latent_networks(self) -> None:
        """Build the decoder of z, and the embeddings of [e_t, w] and z_{t-1}."""
        self.query_embedding = nn.Linear(self.model_dim + self.global_dim, self.model_dim)
        self.memory_embedding = nn.Linear(self.latent_dim, self.model_dim)
        self.latent_decoder = attention.Decoder(self.model_dim, **self.layers)

    def latent_streams(self, z_before: Tensor, embedded: Tensor, w: Tensor) -> Streams:
        """Return queries of [e_t, w], memory of z_{t-1}."""
        return self.query_embedding(join(embedded, w)), self.memory_embedding(z_before)
