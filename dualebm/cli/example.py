"""`dualebm example`: a table to try the commands on."""

import importlib.resources
from pathlib import Path

from dualebm._internal import files
from dualebm.cli.commands import Example

TABLE = "volcanoes.csv"
"""The name of the table in `dualebm/data/examples`, and of the file that is written."""


def run(settings: Example) -> None:
    """Write the table into the current folder, and print a command that fits a density to it.

    Raises FileExistsError for a file of its name.
    """
    del settings
    path = Path(TABLE)
    if path.exists():
        raise FileExistsError(f"{TABLE} is in this folder already, and is kept; run the command in another folder")
    content = importlib.resources.files("dualebm.data").joinpath("examples", TABLE).read_bytes()
    files.commit(path, lambda file: file.write(content))
    print(f"written to {TABLE}; now try\n  dualebm fit {TABLE} --space sphere --latlon --out results/{path.stem}")
