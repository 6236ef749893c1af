"""Energies U: the model is exp(-U) times a base measure."""
