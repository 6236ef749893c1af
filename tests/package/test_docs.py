"""Every Python snippet of the README and the docs runs, those of one file in one namespace."""

import json
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dualebm.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "experiments/README.md",
    ROOT / "benchmarks/README.md",
]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logged = {name: [] for name in ("wandb", "mlflow", "torch.utils.tensorboard")}
    for name, package in trackers(logged).items():
        monkeypatch.setitem(sys.modules, name, package)
    namespace = {"__name__": "snippet"}
    for snippet in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(snippet, str(page), "exec"), namespace)
    assert page.name != "guide.md" or all(len(records) >= 2 for records in logged.values())


def test_the_command_lines_of_the_pages_are_allowed(tmp_path, monkeypatch):
    """Every `dualebm` line and every TOML file of the pages is read as the command reads it, without running it."""
    monkeypatch.chdir(tmp_path)
    lines = 0
    for page in PAGES:
        text = page.read_text()
        for name, content in re.findall(r"^```toml\n# (\S+\.toml)[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            Path(name).write_text(content)
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for line in re.findall(r"^(?:srun )?(?:\.venv/bin/)?dualebm (.*)$", block, re.MULTILINE):
                lines += 1
                if "--help" not in line:
                    main.read(shlex.split(line))
        for command in re.findall(r"for: dualebm (.*)$", text, re.MULTILINE):
            main.read(shlex.split(command))
    assert lines >= 15


def test_readme_has_two_commands_and_a_snippet_of_fifteen_lines():
    text = (ROOT / "README.md").read_text()
    commands = [line for line in text.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2 and "experiments.two_teachers" in commands[0] and " -m pytest " in commands[1]
    (snippet,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 15


def test_files_that_pages_name_exist():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} names {link}"
