"""The plain Python blocks of the pages run, those of one file in one namespace. Command lines, links and lists of pages are right.

The build of the site executes the cells of the pages that are notebooks.
"""

import json
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dualebm.cli import main

ROOT = Path(__file__).parents[2]
OTHERS = [ROOT / "experiments/README.md", ROOT / "benchmarks/README.md"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *(page for page in OTHERS if page.exists())]


def blocks(page, language):
    """The contents of the blocks of a page in a language."""
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def command_lines(page):
    """The words after `dualebm` of all command lines of a page: in blocks of the shell, and behind `!` in cells."""
    cells = "\n".join(blocks(page, "{code-cell} ipython3"))
    text = "\n".join([*blocks(page, "sh"), *re.findall(r"(?m)^!((?:.*\\\n)*.*)$", cells)]).replace("\\\n", " ")
    return re.findall(r"^(?:srun )?(?:\.venv/bin/)?dualebm (.*?)(?: \| .*)?$", text, re.MULTILINE)


def trackers(logged):
    """Packages that keep what they are given in lists by name, and refuse what the real ones refuse."""

    def log_metrics(metrics, step):
        assert metrics and all(type(value) is float for value in metrics.values()) and type(step) is int
        logged["mlflow"].append(metrics)

    def add_scalar(tag, value, step):
        assert (type(tag), type(value), type(step)) == (str, float, int)
        logged["torch.utils.tensorboard"].append(value)

    return {
        "wandb": SimpleNamespace(init=lambda *, project: None, log=lambda record: logged["wandb"].append(json.dumps(record))),
        "mlflow": SimpleNamespace(log_metrics=log_metrics),
        "torch.utils.tensorboard": SimpleNamespace(SummaryWriter=lambda folder: SimpleNamespace(add_scalar=add_scalar)),
    }


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logged = {name: [] for name in ("wandb", "mlflow", "torch.utils.tensorboard")}
    for name, package in trackers(logged).items():
        monkeypatch.setitem(sys.modules, name, package)
    namespace = {"__name__": "snippet"}
    for snippet in blocks(page, "python"):
        exec(compile(snippet, str(page), "exec"), namespace)
    assert page.name != "trackers.md" or all(len(records) >= 2 for records in logged.values())


def test_the_command_lines_of_the_pages_are_allowed(tmp_path, monkeypatch):
    """Every `dualebm` line and every TOML file of the pages is read as the command reads it, without running it."""
    monkeypatch.chdir(tmp_path)
    read = 0
    for page in PAGES:
        for name, content in re.findall(r"^```toml\n# (\S+\.toml)[^\n]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            Path(name).write_text(content)
        for line in [*command_lines(page), *re.findall(r"for: dualebm (.*)$", page.read_text(), re.MULTILINE)]:
            if "--help" not in line:
                main.read(shlex.split(line))
            read += 1
    assert read >= 50


def test_readme_has_two_commands_and_a_snippet_of_fifteen_lines():
    text = (ROOT / "README.md").read_text()
    commands = [line for line in text.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2 and "experiments.two_teachers" in commands[0] and " -m pytest " in commands[1]
    (snippet,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), f"{page.name} names {link}"


def test_the_list_of_how_tos_has_every_page():
    folder = ROOT / "docs/how_to"
    text = (folder / "index.md").read_text()
    (tree,) = re.findall(r"^```\{toctree\}\n:hidden:\n\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    listed = re.findall(r"^- \[[^]]+\]\((\w+)\.md\)", text, re.MULTILINE)
    pages = sorted(page.stem for page in folder.glob("*.md") if page.name != "index.md")
    assert sorted(tree.split()) == pages == sorted(listed)
