"""The duality gap along training: see `__main__`."""
