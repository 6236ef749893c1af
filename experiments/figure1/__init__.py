"""Figure 1, the primal and the dual algorithm: see `__main__`."""
