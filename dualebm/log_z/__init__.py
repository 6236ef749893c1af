"""Estimates of the partition function."""
