"""The subcommands of `dualebm`: settings, which are their flags, and functions of them."""
