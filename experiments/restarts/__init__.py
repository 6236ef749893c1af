"""Restarts of the particles, from maximum likelihood to score matching: see `__main__`."""
