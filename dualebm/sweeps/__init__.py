"""Many runs: grids of settings, their loop, their folder."""
