"""The planted teachers: see `__main__`."""
