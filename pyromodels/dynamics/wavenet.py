"""WaveNet: raw audio sample by sample, each of a softmax over mu-law classes."""

from typing import Any, ClassVar

from pyromodels.dynamics.autoregressive import Autoregressive
from pyromodels.emissions.categorical import Categorical
from pyromodels.networks.memory import GatedMemory
from pyromodels.registry import DYNAMICS


@DYNAMICS.register("wavenet")
class WaveNetPrior(Autoregressive):
    r"""WaveNet, P(s) = \prod_t softmax(W e_t + b)[class of s_t]: an exact probability, no latents.

        e_{t+1} = gated stack(c_1, ..., c_t),  e_1 = 0          causal; see `GatedStack`
        c_t     = the mu-law class of s_t, as a number in [-1, 1]

    `log_prob` is the log of a probability of classes, in nats, not a density; it has no gradient
    with respect to s. Draws keep queues of what each layer has read.

    Departure: published code of this prior looks two samples ahead, has a sigmoid before the
    softmax, and reports that sigmoid as a likelihood.

    Reference: van den Oord et al., 2016, WaveNet: a generative model for raw audio.

    Args:
        width: channels of the stack, and size of e.
        num_layers: of a block, dilated by 1, 2, 4, ...
        num_blocks: how often; `reach` of the stack is how many samples it sees.
        kernel_size: taps of a layer.
        num_classes: 256 of eight bits.

    Example:
        >>> prior = WaveNetPrior(width=4, num_layers=3)
        >>> prior.path(20).sample().shape
        torch.Size([20, 1])
    """

    contract_specs: ClassVar[tuple[dict[str, Any], ...]] = (
        {"width": 3, "num_layers": 2, "num_classes": 6},
        {"width": 3, "num_layers": 1, "num_blocks": 2, "kernel_size": 2, "num_classes": 5},
    )
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"width": 64, "num_layers": 10, "num_blocks": 3},
        "small": {"width": 32, "num_layers": 8, "num_blocks": 2},
    }
    """That of the paper is the width of one source: its network had 256 for four."""

    def __init__(
        self,
        *,
        width: int = 32,
        num_layers: int = 8,
        num_blocks: int = 2,
        kernel_size: int = 3,
        num_classes: int = 256,
    ) -> None:
        memory = GatedMemory(
            1, width, num_layers=num_layers, num_blocks=num_blocks, kernel_size=kernel_size
        )
        super().__init__(
            source_dim=1, past_dim=width, memory=memory, emission=Categorical(num_classes)
        )
