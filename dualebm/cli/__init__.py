"""The command `dualebm`: a dataclass of settings, which are its flags, and a function for each subcommand."""
