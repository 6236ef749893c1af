"""The limits of many particles and of many restarts: see `__main__`."""
