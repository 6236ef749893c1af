"""Coupled measure dynamics for energy-based models: neurons and particles that evolve together."""
