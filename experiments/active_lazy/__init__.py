"""Active against lazy training: see `__main__`."""
