"""The help of a command on a page, from the program itself.

    ```{command-help} fit
    ```

The words after the command are possible too: `fit --method dual`. Without words it is the help of `dualebm`.
"""

import contextlib
import io
import os
import textwrap
from typing import Any
from unittest import mock

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

WIDTH = 80


def help_of(words: list[str]) -> str:
    """Returns what `dualebm WORDS --help` prints.

    Args:
        words: the words between `dualebm` and `--help`.

    Returns:
        The text, in lines of at most `WIDTH` characters.

    Raises:
        ValueError: the program does not end with the exit code 0.

    >>> help_of(["show"]).splitlines()[0]
    'usage: dualebm show [-h] [FOLDER] [--metric TEXT] [--out PATH]'
    >>> help_of(["nothing"])
    Traceback (most recent call last):
    ...
    ValueError: dualebm nothing --help ends with 2
    """
    from dualebm.cli.main import main

    text = io.StringIO()
    plain = {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, plain), contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()):
        code = main([*words, "--help"])
    if code:
        raise ValueError(f"dualebm {' '.join(words)} --help ends with {code}")
    lines = text.getvalue().strip("\n").splitlines()
    return "\n".join("\n".join(textwrap.wrap(line, WIDTH)) if len(line) > WIDTH else line.rstrip() for line in lines)


class CommandHelp(SphinxDirective):
    """The help of a command as a block of text."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Returns the block."""
        words = self.arguments[0].split() if self.arguments else []
        try:
            text = help_of(words)
        except ValueError as error:
            raise self.error(str(error)) from error
        return [nodes.literal_block(text, text, language="text", classes=["command-help"])]


def setup(app: Any) -> dict[str, Any]:
    """Adds the directive to Sphinx."""
    app.add_directive("command-help", CommandHelp)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
