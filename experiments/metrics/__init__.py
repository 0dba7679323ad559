"""Metrics of a tracking result: CLEAR, identity, HOTA, GOSPA, and honesty of the variances."""

from pyromodels.experiments.metrics.tracking.gospa import gospa
from pyromodels.experiments.metrics.tracking.mot import tracking_metrics
from pyromodels.experiments.metrics.tracking.nees import Consistency, consistency

__all__ = ["Consistency", "consistency", "gospa", "tracking_metrics"]
