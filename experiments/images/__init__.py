"""Digits in their proportions: see `__main__`."""
