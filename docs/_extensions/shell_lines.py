"""What the kernels of the pages run first: lines behind `!` run without a terminal, and stop the build where they fail.

In a terminal they would draw progress bars into the page, and IPython goes on after a command that fails.
"""

import subprocess

from IPython.core.getipython import get_ipython


def run_shell_line(line: str) -> None:
    """Runs a line of the shell, prints what it prints, and raises CalledProcessError where it fails."""
    done = subprocess.run(line, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout, end="")  # noqa: T201, which the page shows
    done.check_returncode()


if shell := get_ipython():
    shell.system = run_shell_line
