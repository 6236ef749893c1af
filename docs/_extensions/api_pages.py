"""The API pages: docstrings as autodoc shows them, and the table of the names that `dualebm` itself has.

Docstrings are plain text with code in backticks. Here code becomes a link where it is the name of something on an API page, with or without
`dualebm.` in front. What reStructuredText would read as markup is escaped.

A method of a class may describe only what it adds to the method of the same name in a base class. The sections `Args`, `Returns` and
`Raises` that it lacks are then those of the base class. `complete` returns the docstring with them. A test checks that they name every
parameter.
"""

import ast
import functools
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective, SphinxRole

SECTIONS = ("Args", "Returns", "Raises")
INDENTED = re.compile(r"(?:[ \t].*\n?|\n)*")


def sections(docstring: str) -> dict[str, str]:
    """Returns the sections of a docstring by name. The text before them has the name "".

    Args:
        docstring: the docstring, without the indentation of its definition.

    Returns:
        The text of each section, without its heading.

    >>> sections("Do it.\\n\\nArgs:\\n    x: a number.\\n\\nReturns:\\n    The result.")
    {'': 'Do it.', 'Args': '    x: a number.', 'Returns': '    The result.'}
    """
    pieces = re.split(rf"^({'|'.join(SECTIONS)}):\n", docstring, flags=re.MULTILINE)
    named = zip(["", *pieces[1::2]], pieces[::2], strict=True)
    return {name: text.strip("\n") for name, text in named}


def complete(kind: type, name: str) -> str:
    """Returns the docstring of a method, with the sections that it lacks from the base classes.

    Args:
        kind: the class.
        name: the name of the method, which the class itself defines or inherits.

    Returns:
        The docstring, empty where there is none.

    >>> class Base:
    ...     def double(self, x):
    ...         '''Return the double.
    ...
    ...         Args:
    ...             x: a number.
    ...         '''
    >>> class Fast(Base):
    ...     def double(self, x):
    ...         '''Return the double by a shift.'''
    >>> print(complete(Fast, "double"))
    Return the double by a shift.
    <BLANKLINE>
    Args:
        x: a number.
    """
    found = [inspect.getdoc(vars(base)[name]) or "" for base in kind.__mro__ if name in vars(base)]
    if not found:
        return ""
    text = next((docstring for docstring in found if docstring), "")
    for docstring in found[1:]:
        has = sections(text)
        lacking = {section: content for section, content in sections(docstring).items() if section and section not in has}
        if lacking:
            added = "".join(f"\n\n{section}:\n{INDENTED.match(content)[0].rstrip()}" for section, content in lacking.items())
            before, mark, example = text.partition("\n\n>>>")
            text = before + added + mark + example
    return text


def escaped(line: str) -> str:
    """Returns a line of plain text such that reStructuredText shows it as it is. Code in backticks stays code.

    Args:
        line: the line.

    Returns:
        The line with escapes.

    >>> print(escaped("|f| <= R for `|x|`^2 and x_ in 2 * y"))
    \\|f\\| <= R for `|x|`\\ ^2 and x\\_ in 2 \\* y
    """
    parts = [part if i % 2 else re.sub(r"[*|]|_(?!\w)", r"\\\g<0>", part) for i, part in enumerate(line.split("`"))]
    for i in range(0, len(parts) - 1, 2):  # code must have spaces or signs around it
        parts[i] = re.sub(r"(?<=\w)$", r"\\ ", parts[i])
        parts[i + 2 : i + 3] = [re.sub(r"^(?=[\w^+=*])", r"\\ ", part) for part in parts[i + 2 : i + 3]]
    return "`".join(parts)


def shown(lines: list[str]) -> list[str]:
    """Returns the lines of a docstring with escapes everywhere but in code: examples, and indented blocks below a paragraph.

    Args:
        lines: the lines.

    Returns:
        The lines as reStructuredText.

    >>> shown(["All |x|.", "", ">>> 2 * 3", "6", "", "So *:", "", "    a * b"])
    ['All \\\\|x\\\\|.', '', '>>> 2 * 3', '6', '', 'So \\\\*:', '', '::', '', '    a * b']
    """
    result, example, block, before = [], False, False, ""
    for line in lines:
        text, indented = line.strip(), line.startswith("    ")
        example = (example or text.startswith(">>>")) and bool(text)
        block = block and (indented or not text)
        if indented and not example and not text.startswith("- ") and result and not result[-1].strip() and before and before[0] != " ":
            block = True
            result += ["::", ""]
        result.append(line if example or block else escaped(line))
        before = line if text else before
    return result


def on_docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Completes and escapes the docstring that autodoc is about to show."""
    module, _, own = name.rpartition(".")
    if what == "method":
        owner, _, kind = module.rpartition(".")
        owner = getattr(importlib.import_module(owner), kind, None)
        if isinstance(owner, type):
            lines[:] = complete(owner, own).splitlines()
    lines[:] = shown(lines)
    if name in public_names().values():
        lines[:] = [*lines, "", f"Also ``dualebm.{own}``.", ""]


@functools.cache
def places(module: str) -> dict[str, str]:
    """Returns the full names of what a module of the package imports from the package or defines.

    Args:
        module: the name of the module.

    Returns:
        The full names by the names in the module.

    >>> places("dualebm.methods.dual")["wfr"], places("dualebm.methods.dual")["Space"], places("dualebm.methods.dual")["DualState"]
    ('dualebm.flows.wfr', 'dualebm.geometry.Space', 'dualebm.methods.dual.DualState')
    """
    result = {}
    for line in ast.parse(inspect.getsource(importlib.import_module(module))).body:
        if isinstance(line, ast.ImportFrom) and str(line.module).partition(".")[0] == "dualebm":
            result |= {name.asname or name.name: f"{line.module}.{name.name}" for name in line.names}
        elif isinstance(line, (ast.ClassDef, ast.FunctionDef)):
            result[line.name] = f"{module}.{line.name}"
        elif isinstance(line, ast.Assign):
            result |= {name.id: f"{module}.{name.id}" for name in line.targets if isinstance(name, ast.Name)}
    return result


class Full(ast.NodeTransformer):
    """Writes the names of an annotation in full, with the sign ~ by which Sphinx shows the last part alone and links it."""

    def __init__(self, module: str):
        self.places = places(module)

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        """Leaves out the space that begins the shape of a vector, as in `Float[Array, " n"]`."""
        return ast.Constant(node.value.strip()) if isinstance(node.value, str) else node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Writes a name in full."""
        return ast.parse(f"~{self.places[node.id]}", mode="eval").body if node.id in self.places else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """Writes a name of an imported module in full."""
        head, _, rest = ast.unparse(node).partition(".")
        return ast.parse(f"~{self.places[head]}.{rest}", mode="eval").body if head in self.places else node


def shortest(annotation: ast.expr, module: str) -> ast.expr:
    """Returns an annotation as its source has it, with links.

    Args:
        annotation: the syntax tree of the annotation.
        module: the name of the module that has it.

    Returns:
        Another syntax tree.

    >>> ast.unparse(shortest(ast.parse("Float[Array, ' n'] | Space", mode="eval").body, "dualebm.methods.dual"))
    "Float[Array, 'n'] | ~dualebm.geometry.Space"
    """
    return Full(module).visit(annotation)


def fields_of(kind: type) -> dict[str, ast.expr]:
    """Returns the annotations of the fields of a class and of its base classes.

    Args:
        kind: the class.

    Returns:
        The annotations by the names of the fields.
    """
    result = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] == "dualebm":
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            fields = [line for line in tree.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
            result |= {field.target.id: shortest(field.annotation, base.__module__) for field in fields}
    return result


def arguments_of(arguments: ast.arguments) -> list[ast.arg]:
    """Returns the arguments of a function as one list.

    Args:
        arguments: the syntax tree of the arguments.

    Returns:
        All of them, in any order.
    """
    several = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [*several, *(argument for argument in (arguments.vararg, arguments.kwarg) if argument)]


def on_signature(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, str] | None:
    """Writes the types of a signature as the source has them, such as `NonNegative` and `Float[Array, "n d"]`."""
    if what not in ("class", "function", "method") or not signature or not getattr(thing, "__module__", "").startswith("dualebm"):
        return None
    function = vars(thing).get("__init__") if what == "class" else inspect.unwrap(thing)
    end, types = "", fields_of(thing) if what == "class" else {}
    if inspect.isfunction(function) and (what != "class" or function.__code__.co_filename == inspect.getsourcefile(thing)):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        types = {a.arg: shortest(a.annotation, function.__module__) for a in arguments_of(tree.args) if a.annotation}
        end = ast.unparse(shortest(tree.returns, function.__module__)) if tree.returns and what != "class" else ""
    (tree,) = ast.parse(f"def f{re.sub('<[^<>]*>', '...', signature)}: ...").body
    for argument in arguments_of(tree.args):
        argument.annotation = types.get(argument.arg)
    return f"({ast.unparse(tree.args)})", end


def on_skip(app: Any, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of NamedTuples, which the class describes, and what other packages add to a class."""
    foreign = inspect.isroutine(thing) and not (getattr(thing, "__module__", None) or "dualebm").startswith("dualebm")
    return True if foreign or type(thing).__name__ == "_tuplegetter" else None


def on_page(app: Any, page: nodes.document) -> None:
    """Shortens the name that JAX gives its arrays, in the types of properties."""
    for place in page.findall(addnodes.desc_signature):
        for text in list(place.findall(nodes.Text)):
            if "jaxlib._jax." in text:
                text.parent.replace(text, nodes.Text(text.replace("jaxlib._jax.", "")))


class Code(SphinxRole):
    """Code in backticks of a docstring: a link where it is the name of something that an API page shows."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Returns the code, as a link that may lead nowhere where it looks like a name."""
        code = nodes.literal(self.rawtext, self.text, classes=["xref", "py"])
        if not re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", self.text):
            return [nodes.literal(self.rawtext, self.text)], []
        target = {"refdomain": "py", "reftype": "obj", "reftarget": self.text.removesuffix("()"), "refdoc": self.env.docname}
        here = {name: self.env.ref_context.get(name) for name in ("py:module", "py:class")}
        return [addnodes.pending_xref("", code, refwarn=False, **target, **here)], []


def on_missing(app: Any, env: Any, node: addnodes.pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Finds a name of the package that is written without `dualebm.` in front."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or target.startswith("dualebm."):
        return None
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", f"dualebm.{target}", node, content)


@functools.cache
def public_names() -> dict[str, str]:
    """Returns the names of `dualebm` itself, in the order of the alphabet, with the full name of each.

    Returns:
        The full names by the names.

    >>> public_names()["Dual"], public_names()["metrics"]
    ('dualebm.methods.dual.Dual', 'dualebm.metrics')
    """
    package = importlib.import_module("dualebm")
    stub = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text())
    lines = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    found = {name.name: ".".join(filter(None, ["dualebm", line.module, name.name])) for line in lines for name in line.names}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def first_sentence(name: str) -> str:
    """Returns the first paragraph of what describes a name, in one line.

    Args:
        name: the full name.

    Returns:
        The text, as reStructuredText.

    >>> first_sentence("dualebm.rates.Fraction")
    'A rate in (0, 1].'
    """
    module, _, own = name.rpartition(".")
    thing = getattr(importlib.import_module(module), own, None) or importlib.import_module(name)
    if inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing):
        lines = (inspect.getdoc(thing) or "").splitlines()
    else:
        lines = ModuleAnalyzer.for_module(module).find_attr_docs()["", own]
    return escaped(" ".join("\n".join(lines).split("\n\n")[0].split()))


class PublicNames(SphinxDirective):
    """A table of the names that `dualebm` itself has, with the first sentence of each. It is for pages in reStructuredText."""

    def run(self) -> list[nodes.Node]:
        """Returns the table."""
        lines = [".. list-table::", "   :widths: 1 3", ""]
        for name, place in public_names().items():
            lines += [f"   * - :py:obj:`{name} <{place}>`", f"     - {first_sentence(place)}"]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Any) -> dict[str, Any]:
    """Adds the directive, the role of plain backticks and the handlers of autodoc."""
    app.add_directive("public-names", PublicNames)
    app.add_role("dualebm", Code())
    app.connect("autodoc-process-docstring", on_docstring, priority=100)
    app.connect("autodoc-process-signature", on_signature)
    app.connect("autodoc-skip-member", on_skip)
    app.connect("doctree-read", on_page)
    app.connect("missing-reference", on_missing)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
