"""Bumps on a circle: see `__main__`."""
