"""Classical trackers that a learned one has to beat."""

from pyromodels.experiments.baselines.hold import hold_last_box
from pyromodels.experiments.baselines.kalman import kalman_tracker
from pyromodels.experiments.baselines.tracks import Tracks

__all__ = ["Tracks", "hold_last_box", "kalman_tracker"]
