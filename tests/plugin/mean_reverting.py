"""An example of your own package: a prior that is there once the package is installed."""

from pyromodels import LinearGaussian
from pyromodels.registry import DYNAMICS


@DYNAMICS.register("mean_reverting")
class MeanReverting(LinearGaussian):
    """Mean-reverting walk, s_t = decay * s_{t-1} + noise: an exact message, a Kalman smoother."""

    contract_specs = ({"num_coordinates": 1}, {"num_coordinates": 3, "decay": 0.5})

    def __init__(self, *, num_coordinates: int = 4, decay: float = 0.99, std: float = 0.02):
        super().__init__(num_coordinates=num_coordinates, order=1, process_std=(std,))
        self.transition.fill_(decay)
