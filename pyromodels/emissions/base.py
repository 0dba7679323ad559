"""What a network sees of a frame, and how its outputs become the law of the next one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import pyro.distributions as dist
from torch import Tensor, nn

from pyromodels.distributions.message import Anchor, GaussianMessage
from pyromodels.errors import ShapeError, SpecError, mismatch
from pyromodels.networks.mlp import Heads
from pyromodels.registry import EMISSIONS

Outputs = tuple[Tensor, ...]
"""What a decoder says of frames, in the order of `DecodedEmission.outputs`; each (*, D)."""
Said = Tensor | Outputs
"""A context, or outputs."""

E = TypeVar("E", bound="Emission")


class FrameLaw(ABC):
    """What a network sees of frames, and how what is said of a frame becomes its law.

    Said of a frame is a context e_t, of which a `Head` makes a law, or outputs of a decoder, which
    a `DecodedEmission` reads. Frame by frame, a head has members first and rows flat, (M, R, .);
    see `pyromodels.networks.side_by_side`.
    """

    def see(
        self,
        s: Tensor,  # shape: (*, T, D)
    ) -> Tensor:  # x, shape: (*, T, D)
        """Return what networks see of a whole trajectory."""
        return s

    def relative(
        self,
        s: Tensor,  # s_t, shape: (*, D)
        previous: Tensor | None,  # s_{t-1}, shape: (*, D); None at the first frame
    ) -> Tensor:  # x_t, shape: (*, D)
        """Return what networks see of one frame."""
        return s

    @abstractmethod
    def conditionals(
        self,
        said: Said,  # each (*batch, T, E)
        history: Tensor,  # s, shape: (*, T, D)
        anchor: Anchor | None,
    ) -> dist.TorchDistribution:  # batch (*batch, T), event (D,)
        """Return p(s_t | said of t, s_{t-1}) of every frame; the anchor is the law of the first."""

    @abstractmethod
    def draw(
        self,
        said: Said,  # of t, each (*, E)
        noise: Tensor,  # standard normal, shape: (*, D), or of a head (*, noise_dim)
        previous: Tensor | None,  # s_{t-1}, shape: (*, D); None at the first frame
    ) -> Tensor:  # s_t, shape: (*, D)
        """Return one frame driven by the noise, with pathwise gradients where there are any."""

    def expected(
        self,
        said: Said,  # of t, each (*, E)
        previous: Tensor | None,  # s_{t-1}, shape: (*, D); None at the first frame
    ) -> Tensor:  # E[s_t], shape: (*, D)
        """Return the mean of one frame: what a model fed with its own predictions is fed with.

        Raises:
            NotImplementedError: where there is no formula for it.
        """
        raise NotImplementedError(f"{type(self).__name__}: no formula for the mean of a frame")

    def message(
        self,
        said: Said,  # each (*batch, T, E)
        history: Tensor,  # s, shape: (*batch, T, D)
        anchor: Anchor,
    ) -> GaussianMessage:
        """Return the law of every frame as a linear-Gaussian message.

        Raises:
            NotImplementedError: where frames are not Gaussian.
        """
        raise NotImplementedError(f"frames of the emission {type(self).__name__} are not Gaussian")


class Emission(ABC):
    """p(s_t | e_t, s_{t-1}): the last step of every deep model of a signal, as plain data.

    It has no parameters. `head` makes the networks that read a context e_t, what a model knows
    before frame t, and say the law of that frame. An anchor, where there is one, is the law of s_1
    in place of theirs.
    """

    needs_anchor: bool = False
    """Whether the first frame has no law but the anchor's."""
    takes_anchor: ClassVar[bool] = True
    """Whether a trajectory can start at a Gaussian."""
    has_gaussian_message: ClassVar[bool] = False
    """Whether a frame is Gaussian given its context, so that `message` exists."""
    expects_mean: ClassVar[bool] = True
    """Whether `expected` is the mean of a frame; else one that networks see as they should."""
    noise_is_unique: bool = True
    """Whether a frame tells the noise that drove it."""
    has_rsample: ClassVar[bool] = True
    """Whether draws have pathwise gradients: those of classes have none."""
    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    """Keyword arguments of the variants that the contract suite checks."""

    def check_source_dim(self, source_dim: int) -> None:
        """Raise `ShapeError` where frames of this size mean nothing here."""
        if source_dim < 1:
            raise ShapeError(mismatch("source_dim", given=source_dim, expected="1 or more"))

    def frame_dim(self, source_dim: int) -> int:
        """Return D, the numbers of a frame that networks of this size speak of."""
        return source_dim

    def iterate(
        self,
        mean: Tensor,  # of q(s), shape: (*, D)
        variance: Tensor,  # shape: (*, D)
    ) -> Tensor:  # shape: (*, D)
        """Return the frame that networks are to see in place of s_t, of which q(s_t) is known."""
        return mean

    @abstractmethod
    def head(
        self,
        source_dim: int,
        context_dim: int,
        *,
        dims: Sequence[int] = (),  # tanh layers between context and outputs
        num_members: int = 1,  # models side by side
    ) -> "Head":
        """Return new networks from a context to the law of a frame.

        Raises:
            SpecError: layers or members where the networks cannot have them.
        """

    def refuse_layers(self, dims: Sequence[int]) -> None:
        """Raise `SpecError` where layers are asked of networks that have their own."""
        if dims:
            name, hint = type(self).__name__, "It has hidden layers of its own."
            raise SpecError(mismatch(f"layers before {name}", given=dims, expected=(), hint=hint))


class Head(nn.Module, FrameLaw):
    """The networks of an emission: a context in, the law of a frame out."""

    noise_dim: int
    """Size of the noise that drives a frame."""


class DecodedEmission(Emission, FrameLaw):
    """p(s_t | a decoder's outputs, s_{t-1}): an emission that is a function of what is said of it.

    Networks live in the coordinates x: `see` shows them x of a trajectory s, and `conditionals`
    reads their outputs as laws of s.
    """

    outputs: ClassVar[tuple[str, ...]]
    """Names of what a decoder must say."""

    def head(
        self, source_dim: int, context_dim: int, *, dims: Sequence[int] = (), num_members: int = 1
    ) -> "DecoderHead":
        """Return a new decoder."""
        if num_members != 1:
            hint = "Only mixtures and flows have networks side by side."
            raise SpecError(mismatch("num_members", given=num_members, expected=1, hint=hint))
        return DecoderHead(self, Heads((context_dim,), dims, source_dim, self.outputs))


class DecoderHead(Head):
    """What a decoder says of frames, read as an emission reads it."""

    def __init__(self, emission: DecodedEmission, decoder: Heads) -> None:
        super().__init__()
        self.emission, self.decoder = emission, decoder
        self.noise_dim = emission.frame_dim(decoder.heads()[0].out_features)

    def see(self, s: Tensor) -> Tensor:
        """Return x of a whole trajectory."""
        return self.emission.see(s)

    def relative(self, s: Tensor, previous: Tensor | None) -> Tensor:
        """Return x_t."""
        return self.emission.relative(s, previous)

    def conditionals(
        self, said: Tensor, history: Tensor, anchor: Anchor | None
    ) -> dist.TorchDistribution:
        """Return p(s_t | e_t, s_{t-1}) of every frame."""
        return self.emission.conditionals(self.decoder(said), history, anchor)

    def draw(self, said: Tensor, noise: Tensor, previous: Tensor | None) -> Tensor:
        """Return s_t."""
        return self.emission.draw(self.decoder(said), noise, previous)

    def expected(self, said: Tensor, previous: Tensor | None) -> Tensor:
        """Return the mean of s_t."""
        return self.emission.expected(self.decoder(said), previous)

    def message(self, said: Tensor, history: Tensor, anchor: Anchor) -> GaussianMessage:
        """Return the law of every frame as a linear-Gaussian message."""
        return self.emission.message(self.decoder(said), history, anchor)


def make_emission(
    given: str | Mapping[str, Any] | Emission,
    kind: type[E] = Emission,  # type: ignore[assignment]
) -> E:
    """Return an emission from an object, a registered name, or a table with a name.

    Args:
        given: the object, the name or the table.
        kind: what it must be: a dynamical VAE reads a `DecodedEmission`.

    Raises:
        SpecError: unknown name or keyword, or an emission of another kind.

    Example:
        >>> make_emission("gaussian").outputs
        ('mean', 'log_variance')
    """
    emission = given
    if not isinstance(given, Emission):
        emission = EMISSIONS.build({"name": given} if isinstance(given, str) else given)
    if not isinstance(emission, kind):
        expected = "one that is a function of a decoder's outputs, e.g. gaussian or spectral"
        raise SpecError(mismatch("emission", given=type(emission).__name__, expected=expected))
    return emission
