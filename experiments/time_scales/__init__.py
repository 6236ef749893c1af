"""Neurons and particles on similar and on different time scales: see `__main__`."""
