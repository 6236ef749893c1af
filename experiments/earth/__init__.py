"""The automatic fit on four sets of places on the Earth, beside kernels, a mixture and published models."""
