"""Tables and numbers of the pages, taken from the reports of the experiments in `docs/reproductions/reports`.

    ```{report-table} torus
    :columns: method; kl = KL (nat)
    :where: energy=last
    ```

    {report}`torus; summary;` The KL is {report}`torus; method=F1; kl; .4f` nats.

A table shows the columns of a report under other headings, in the order given, for the rows that have the given values. A column with
braces is made of several: `{kl:.2f} ({least:.2f} to {largest:.2f}) = KL (nat)`. A table can be two-way:

    ```{report-table} time_scales
    :columns: alpha
    :across: integrator; {kl:.3f} = KL; iterations
    ```

Then the rows of the report that have the same `columns` are one line of the table, with cells of their own for each value of the column
`integrator`, under headings such as "KL, mala". The line below a table
names the command, the revision, the date and the seconds, and links the file. A report that is missing, a column that it does not have and
a condition that no row meets are errors of the build.
"""

import json
import re
import string
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective, SphinxRole

REPORTS = Path("reproductions") / "reports"
TEACHER = re.compile(r"\bs(\d+)_(monomodal|bimodal|trimodal)\b")
"""The name of a planted teacher in a report."""


def shown(value: Any, form: str = "") -> str:
    """Returns a value as text: with a format of Python if it is a number, or else with four significant digits.

    A number that is missing is empty, and a time that is infinite "never".

    >>> shown(0.000123456), shown(0.5, ".2f"), shown(None), shown(20000, ","), shown("mala", ".2f"), shown("nan"), shown("inf")
    ('0.0001235', '0.50', '', '20,000', 'mala', '', 'never')
    """
    if value is None or value in ("nan", "inf"):
        return "never" if value == "inf" else ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return format(value, form or (".4g" if isinstance(value, float) else ""))


def parts(text: str, separator: str) -> list[str]:
    """Returns the parts of a text between separators, without spaces around them and without empty ones.

    >>> parts("a; b = c;", ";")
    ['a', 'b = c']
    """
    return [part.strip() for part in text.split(separator) if part.strip()]


def pairs(text: str) -> list[tuple[str, str]]:
    """Returns the pairs NAME = TEXT of a list that semicolons separate; a text that is left out is empty.

    >>> pairs("n; kl = KL (nat)")
    [('n', ''), ('kl', 'KL (nat)')]
    """
    return [(name.strip(), value.strip()) for name, _, value in (part.partition("=") for part in parts(text, ";"))]


def cell(row: dict, column: str, form: str = "") -> str:
    """Returns the text of a cell: of a column of a row, or of several where the column has braces; empty where one of these has no value.

    >>> row = {"kl": 0.25, "least": 0.125, "chosen": None}
    >>> cell(row, "kl"), cell(row, "{kl:.2f} (from {least:.2f})"), cell(row, "{chosen:.2f}")
    ('0.25', '0.25 (from 0.12)', '')
    >>> cell({"teacher": "s14_monomodal"}, "teacher")
    '$S^{14}$ monomodal'
    """
    if "{" not in column:
        return TEACHER.sub(r"$S^{\1}$ \2", shown(row[column], form))
    return "" if any(row[name] in (None, "nan") for name in columns_of(column)) else column.format_map(row)


def columns_of(column: str) -> list[str]:
    """Returns the columns of a report of which a column of a table is made.

    >>> columns_of("kl"), columns_of("{kl:.2f} (from {least:.2f})")
    (['kl'], ['kl', 'least'])
    """
    return [name for _, name, _, _ in string.Formatter().parse(column) if name] if "{" in column else [column]


def headed(value: str, heading: str) -> str:
    """Returns the heading of the cells of a value.

    >>> headed("mala", ""), headed("mala", "KL")
    ('mala', 'KL, mala')
    """
    return f"{heading}, {value}" if heading else value


def two_way(
    rows: list[dict], columns: list[str], across: str, cells: list[tuple[str, str]], formats: dict[str, str]
) -> tuple[list[str], list[list[str]]]:
    """Returns the headings and lines of a two-way table.

    Args:
        rows: the rows of the report.
        columns: the columns whose values make a line.
        across: the column whose values make columns, numbers in ascending order.
        cells: the columns of the report that each of them shows, with their headings.
        formats: formats of Python by column.

    Returns:
        The headings of the new columns, and for each line its texts. Cells of several rows are joined by commas.

    >>> rows = [dict(n=10, step=0.5, kl=3.0), dict(n=10, step=0.1, kl=2.0), dict(n=20, step=0.1, kl=1.0), dict(n=20, step=0.1, kl=4.0)]
    >>> two_way(rows, ["n"], "step", [("kl", "KL")], {})
    (['KL, 0.1', 'KL, 0.5'], [['10', '2', '3'], ['20', '1, 4', '']])
    """
    values = list(dict.fromkeys(row[across] for row in rows))
    if all(isinstance(value, (int, float)) for value in values):
        values.sort()
    headings = [
        headed(cell({across: value}, across, formats.get(across, "")), heading)
        for value in values
        for _, heading in cells
    ]
    lines: dict[tuple[str, ...], dict[tuple, list[str]]] = {}
    for row in rows:
        line = lines.setdefault(tuple(cell(row, column, formats.get(column, "")) for column in columns), {})
        for column, heading in cells:
            line.setdefault((row[across], column, heading), []).append(cell(row, column, formats.get(column, "")))
    joined = lambda line, *key: ", ".join(line.get(key, []))  # noqa: E731
    return headings, [
        [*key, *(joined(line, value, *one) for value in values for one in cells)] for key, line in lines.items()
    ]


def selected(name: str, rows: list[dict], where: str) -> list[dict]:
    """Returns the rows that meet all conditions NAME=VALUE, of which several are separated by semicolons.

    Raises:
        ValueError: A condition names no column, or no row meets all conditions.

    >>> selected("torus", [{"n": 10, "kl": 0.5}, {"n": 20, "kl": 0.25}], "n=20")
    [{'n': 20, 'kl': 0.25}]
    >>> selected("torus", [{"n": 10}], "n=30")
    Traceback (most recent call last):
    ...
    ValueError: report torus: no row has n=30
    """
    for condition in parts(where, ";"):
        column, _, value = (part.strip() for part in condition.partition("="))
        if rows and column not in rows[0]:
            raise ValueError(f"report {name} has no column {column}; it has {', '.join(rows[0])}")
        rows = [row for row in rows if shown(row[column]) in parts(value, "|")]
    if not rows:
        raise ValueError(f"report {name}: no row has {where}")
    return rows


def value_of(name: str, report: dict, where: str, column: str, form: str) -> str:
    """Returns the text of the one value in a column for which the conditions hold, or, without conditions, of what the report says itself.

    Raises:
        ValueError: There is no such column, or not one row.

    >>> value_of("torus", {"rows": [{"n": 10, "kl": 0.5}, {"n": 20, "kl": 0.25}]}, "n=20", "kl", ".2f")
    '0.25'
    >>> value_of("torus", {"rows": [{"n": 10}], "summary": "All are level."}, "", "summary", "")
    'All are level.'
    """
    if not where and column in ("about", "paper", "seconds", "summary"):
        return shown(report[column], form)
    rows = selected(name, report["rows"], where)
    if len(rows) > 1 or column not in rows[0]:
        found = f"{len(rows)} rows have {where}, with the columns {', '.join(rows[0])}"
        raise ValueError(f"report {name}: {found}; one row with {column} is needed")
    return shown(rows[0][column], form)


def read(directive: Any, name: str) -> dict:
    """Returns a report and notes that the page depends on its file."""
    relative = REPORTS / f"{name}.json"
    path = Path(directive.env.srcdir) / relative
    directive.env.note_dependency(str(relative))
    if not path.exists():
        raise ValueError(f"there is no report {relative}; python -m experiments.publish makes one")
    return json.loads(path.read_text())


class ReportTable(SphinxDirective):
    """A table of a report's rows, with the line that says where they come from."""

    required_arguments = 1
    option_spec = dict.fromkeys(("columns", "across", "where", "formats"), directives.unchanged)

    def run(self) -> list[nodes.Node]:
        """Returns the table and the line below it."""
        name = self.arguments[0]
        try:
            report = read(self, name)
            rows = selected(name, report["rows"], self.options.get("where", ""))
            chosen = pairs(self.options.get("columns", ";".join(rows[0])))
            formats = dict(pairs(self.options.get("formats", "")))
            (across, _), *cells = pairs(self.options.get("across", ";")) or [("", "")]
            known = [one for made, _ in [*chosen, *cells] for one in columns_of(made)]
            for column in [*known, *formats, *([across] if across else [])]:
                if column not in rows[0]:
                    raise ValueError(f"report {name} has no column {column}; it has {', '.join(rows[0])}")
        except ValueError as error:
            raise self.error(str(error)) from error
        headings = [heading or column.replace("_", " ") for column, heading in chosen]
        lines = [[cell(row, column, formats.get(column, "")) for column, _ in chosen] for row in rows]
        numbers = [[isinstance(row.get(column), (int, float)) for column, _ in chosen] for row in rows]
        if across:
            more, lines = two_way(rows, [column for column, _ in chosen], across, cells, formats)
            headings += more
            numbers = [[*numbers[0], *[True] * len(more)]] * len(lines)
        group = nodes.tgroup(cols=len(headings))
        group += [nodes.colspec(colwidth=1) for _ in headings]
        head, body = nodes.thead(), nodes.tbody()
        head += self.line(headings, [])
        for line, are_numbers in zip(lines, numbers, strict=True):
            body += self.line(line, are_numbers)
        group += [head, body]
        table = nodes.table("", group, classes=["report"])
        return [nodes.container("", table, classes=["report-table"]), *self.source(name, report)]

    def line(self, cells: list[str], numbers: list[bool]) -> nodes.row:
        """Returns a row of the table."""
        row = nodes.row()
        for i, cell in enumerate(cells):
            children, _ = self.parse_inline(cell)
            entry = nodes.entry("", nodes.paragraph("", "", *children))
            entry["classes"] += ["number"] if numbers and numbers[i] else []
            row += entry
        return row

    def source(self, name: str, report: dict) -> list[nodes.Node]:
        """Returns the line that names command, revision, date and seconds of a report, and links its file."""
        origin = report["provenance"]
        where = f"{report['seconds']:.0f} s on {origin['machine']}; revision {origin['git_revision'][:7]}, {origin['date'][:10]}"
        children, _ = self.parse_inline(f"`{report['command']}`, {where}. {{download}}`All rows (JSON) </{REPORTS}/{name}.json>`")
        return [nodes.paragraph("", "", *children, classes=["report-source"])]


class ReportValue(SphinxRole):
    """One number of a report: NAME; CONDITIONS...; COLUMN; FORMAT. Or what it says: NAME; summary; with about, paper and seconds alike."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Returns the number as text."""
        name, *where, column, form = [part.strip() for part in self.text.split(";")]
        try:
            text = value_of(name, read(self, name), ";".join(where), column, form)
        except ValueError as error:
            return [], [self.inliner.reporter.error(str(error), line=self.lineno)]
        return [nodes.Text(text)], []


def setup(app: Any) -> dict[str, Any]:
    """Adds the directive and the role to Sphinx."""
    app.add_directive("report-table", ReportTable)
    app.add_role("report", ReportValue())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
