"""The two flows: Langevin for particles, Wasserstein-Fisher-Rao for atoms."""
