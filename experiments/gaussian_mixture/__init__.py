"""A Gaussian mixture of two far modes: see `__main__`."""
