"""HiT-DVAE: Transformers over time, and a latent of the whole sequence."""

from pyromodels.dynamics.hierarchical import HierarchicalTransformer
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

    Symbols are those of `DynamicalPrior`; e has shape (*batch, T, H) with H = `model_dim`.

    The reference states the Transformers and the latents, but neither the sizes of features and
    LSTM nor where embeddings are shared: those of `sizes["paper"]` were chosen such that parameters
    add up to the reference's 21.75 million (LigHT-DVAE: 17.46), with 513 spectral bins.

    Reference: Lin, 2024 (thesis), chapter 7; Lin, Bie, Leglaive, Girin and Alameda-Pineda, 2023,
    Speech modeling with a hierarchical Transformer dynamical VAE. Arguments are those of
    `HierarchicalTransformer`.

    Example:
        The program of B sequences with its plates, written out (`sample_sources` and
        `DynamicalVAE` are these statements, with anchors, padding and scheduled sampling):

        >>> import pyro, torch
        >>> prior = HiT(source_dim=2)
        >>> def program(s):  # shape: (B, T, D)
        ...     with pyro.plate("batch", len(s)):
        ...         w = pyro.sample("w", prior.global_prior().expand(s.shape[:1]))  # p(w)
        ...         pair = prior.given(w).pair(s.shape[1], batch_shape=s.shape[:1])
        ...         z = pyro.sample("z", pair.latent)  # p(z_t | s_<t, z_<t, w), all t
        ...         pyro.sample("s", pair.source(z), obs=s)  # p(s_t | s_<t, z_<=t, w), all t
        ...         pair.teach(s)
        >>> def guide(s):
        ...     with pyro.plate("batch", len(s)):
        ...         w = pyro.sample("w", prior.global_posterior(s))  # q(w | s_1:T)
        ...         pyro.sample("z", prior.given(w).posterior(s))  # q(z_t | s_1:T, w), all t
        >>> pyro.infer.Trace_ELBO().loss(program, guide, torch.zeros(3, 5, 2)) < 1e9
        True

        Two spectrograms, resynthesised with the latents w of each other:

        >>> prior = HiT(source_dim=5, emission="spectral")
        >>> s = prior.sample_sources("s", 20, batch_shape=torch.Size([2]))
        >>> q = prior.infer(s, noise=None)
        >>> prior.given(q.w.flip(0)).own_history(s, q.z).shape
        torch.Size([2, 20, 5])
    """
