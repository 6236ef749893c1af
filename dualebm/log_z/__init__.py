"""The partition function."""
