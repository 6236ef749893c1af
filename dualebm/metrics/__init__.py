"""The metrics that a run records. A metric is a function of an iterate of the run."""

from dualebm.metrics.annealed import AnnealedCheck
from dualebm.metrics.base import Metric
from dualebm.metrics.monitors import (
    CrossEntropy,
    DualityGap,
    EffectiveTemperature,
    EnergyGap,
    KLDivergence,
    ScoreError,
    TotalVariation,
    exact_samples,
    relative_entropy,
    standard,
)
from dualebm.metrics.particles import MMD, Acceptance, EnergyDistance, SlicedWasserstein
from dualebm.metrics.stein import NetworkSteinDiscrepancy, SteinDiscrepancy
from dualebm.metrics.validation import ValidationCheck

__all__ = [
    "MMD",
    "Acceptance",
    "AnnealedCheck",
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
    "ValidationCheck",
    "exact_samples",
    "relative_entropy",
    "standard",
]
