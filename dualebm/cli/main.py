"""The command `dualebm`.

Each subcommand is a frozen dataclass of settings, which are its flags, and a function of them; both stand in `COMMANDS`.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro

from dualebm.cli.fit import Fit, fit
from dualebm.cli.sample_score import Sample, Score, sample, score
from dualebm.cli.sweep import Runs, Show, Sweep, run_sweep, runs, show
from dualebm.training.run import Diverged

COMMANDS = {Fit: fit, Sample: sample, Score: score, Sweep: run_sweep, Show: show, Runs: runs}
"""The subcommands: the settings of each, after which it is named, and what it does with them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line (None: that of the process) and returns its exit code.

    0; 1 for a run that diverged; 2 for arguments, files and folders that are not allowed, told in one line on standard
    error; 130 where it was interrupted.

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
