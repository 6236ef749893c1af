"""Formulas as MathML, which browsers draw by themselves: the pages load no script, and work without a network."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert


def formula(text: str, display: str) -> str:
    r"""Returns a formula of LaTeX as MathML, `inline` or as a `block`.

    >>> formula("x^2", "inline")[:40], formula("\\sum_j a_j", "block").count("<munder>")
    ('<math xmlns="http://www.w3.org/1998/Math', 1)
    """
    return convert(text, display=display)


def visit_math(translator: Any, node: nodes.math) -> None:
    """Writes a formula in a line."""
    translator.body.append(formula(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_math_block(translator: Any, node: nodes.math_block) -> None:
    """Writes a formula of its own line, which scrolls inside itself where it is too wide."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(f"{formula(node.astext(), 'block')}</div>")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Adds the renderer to Sphinx."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
