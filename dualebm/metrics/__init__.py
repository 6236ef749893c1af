"""What a run records: functions of a state."""

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
    "NetworkSteinDiscrepancy",
    "ScoreError",
    "SlicedWasserstein",
    "SteinDiscrepancy",
    "TotalVariation",
    "exact_samples",
    "relative_entropy",
    "standard",
]
