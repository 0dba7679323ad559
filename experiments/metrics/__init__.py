"""Metrics of a tracking result: CLEAR, identity, HOTA, GOSPA, and honesty of the variances."""

from experiments.metrics.gospa import gospa
from experiments.metrics.mot import tracking_metrics
from experiments.metrics.nees import Consistency, consistency

__all__ = ["Consistency", "consistency", "gospa", "tracking_metrics"]
