"""What no linter says of the house; the order of imports is in pyproject.toml, and `lint-imports` checks it."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "dualebm"


def test_every_file_has_its_place_in_the_order_of_imports():
    contracts = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == ["dualebm"]]
    files = {path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in PACKAGE.rglob("*.py")}
    assert {name for name in files if not name.endswith("__init__") and name.split(".")[0] not in layers} <= set(layers)


def test_numpy_reads_no_pickle_anywhere():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path


def test_importing_changes_no_jax_setting_and_computes_nothing():
    program = (
        "import jax; before = dict(jax.config.values); import dualebm; "
        "changed = {k for k in before if jax.config.values[k] != before[k]}; assert not changed, changed; "
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
