"""The house keeps its order: a file imports only from files listed above it, and the core has no side effects."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dualebm"
ORDER = [
    "columns", "spaces", "measures", "checks", "cells", "features", "energy",
    "gaussian_mixture", "boltzmann", "networks", "rkhs", "distances",
    "flows.langevin", "flows.restarts", "flows.wfr",
    "flows.descent", "flows.parameters", "stein", "partition", "flows.jarzynski", "certificate", "targets",
    "datasets", "images",
    "methods.dual", "methods.adaptive", "methods.score_matching", "methods.lazy",
    "methods.mean_field", "methods.tracked", "methods.likelihood", "methods.stein",
    "methods.jarzynski", "methods.contrastive", "methods.weighted_dual", "methods.audited",
    "metrics", "walker_metrics", "simulate", "settings", "grid", "saved", "store", "ranges", "model", "quality",
    "mesh", "run", "hosts", "plan", "sweep_folder", "sweep", "selection", "plot", "sphere_plot",
    "commands.methods", "commands.score", "commands.fit", "commands.sweeps", "cli",
]  # fmt: skip
SHELL = {
    "datasets", "images", "settings", "saved", "store", "model", "run", "hosts", "plan", "sweep_folder", "sweep", "selection",
    "plot", "sphere_plot", "commands.methods", "commands.score", "commands.fit", "commands.sweeps", "cli",
}  # fmt: skip


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), ast.parse(path.read_text())


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_is_in_the_order():
    assert sorted(name for name, _ in modules()) == sorted(ORDER)


@pytest.mark.parametrize(("name", "tree"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_downwards(name, tree):
    used = {i.removeprefix("dualebm.") for i in imports(tree) if i.startswith("dualebm.")} & set(ORDER)
    above = {u for u in used if ORDER.index(u) >= ORDER.index(name)}
    assert not above, f"{name} imports {above}, which are listed after it"


@pytest.mark.parametrize(("name", "tree"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_the_core_has_no_side_effects(name, tree):
    if name in SHELL:
        return
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not called & {"print", "open", "eval", "exec"}
    outside = {"matplotlib", "pickle", "os", "pathlib", "zarr", "xarray", "tqdm"}
    assert not {i.split(".")[0] for i in imports(tree)} & outside


def test_no_pickle_anywhere():
    for name, tree in modules():
        assert not {i.split(".")[0] for i in imports(tree)} & {"pickle", "cloudpickle", "dill"}, name
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, name


def test_importing_changes_no_jax_setting_and_computes_nothing():
    program = (
        "import jax; before = dict(jax.config.values); import dualebm; "
        "changed = {k for k in before if jax.config.values[k] != before[k]}; assert not changed, changed; "
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
