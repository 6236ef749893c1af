"""The command `dualebm`: a dataclass of settings, which are its flags, and a function for each subcommand."""


class Refused(Exception):
    """A word of the command line, or a value of a configuration file, that is not allowed. The message is one line."""
