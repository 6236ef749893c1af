"""Many runs: grids of settings, their loop, their folder, and selection by validation."""
