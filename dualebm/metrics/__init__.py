"""The metrics that a run records. A metric is a function of an iterate of the run."""

from dualebm.metrics.base import Metric
from dualebm.metrics.monitors import (
    MMD,
    Acceptance,
    CrossEntropy,
    DualityGap,
    EffectiveTemperature,
    EnergyDistance,
    EnergyGap,
    KLDivergence,
    NetworkSteinDiscrepancy,
    ScoreError,
    SlicedWasserstein,
    SteinDiscrepancy,
    TotalVariation,
    exact_samples,
    relative_entropy,
    standard,
)

__all__ = [
    "MMD",
    "Acceptance",
    "CrossEntropy",
    "DualityGap",
    "EffectiveTemperature",
    "EnergyDistance",
    "EnergyGap",
    "KLDivergence",
    "Metric",
    "NetworkSteinDiscrepancy",
    "ScoreError",
    "SlicedWasserstein",
    "SteinDiscrepancy",
    "TotalVariation",
    "exact_samples",
    "relative_entropy",
    "standard",
]
