"""The command `dualebm`.

Each subcommand is a frozen dataclass of settings, which are its flags, and a function that takes them. `COMMANDS` lists
both.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro

from dualebm.cli.fit import Fit, fit
from dualebm.cli.sample_score import Sample, Score, sample, score
from dualebm.cli.show import Runs, Show, runs, show
from dualebm.cli.sweep import Sweep, run_sweep
from dualebm.training.run import Diverged

COMMANDS = {Fit: fit, Sample: sample, Score: score, Sweep: run_sweep, Show: show, Runs: runs}
"""The subcommands: the settings of each, which give it its name, and the function that takes them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    `arguments` are the words after the command, or None for the arguments of the process. The exit code is 0 on
    success, 1 when a run diverged, 2 when an argument, file or folder is not allowed, and 130 when the command was
    interrupted. Standard error then has one line with the reason.

    >>> main(["sample", "no/such/folder", "--out", "samples.csv"])
    2
    """
    kinds = tuple(Annotated[kind, tyro.conf.subcommand(name=kind.__name__.lower())] for kind in COMMANDS)
    commands: Any = Union[kinds]  # noqa: UP007
    about = "Energy-based models trained by the coupled flow of neurons and particles.\n\nFor example: dualebm fit --help"
    try:
        settings = tyro.cli(commands, prog="dualebm", description=about, args=arguments)
        COMMANDS[type(settings)](settings)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
