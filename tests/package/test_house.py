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
        "import jax; before = dict(jax.config.values); import dualebm; [getattr(dualebm, name) for name in dualebm.__all__]; "
        "changed = {k for k in before if jax.config.values[k] != before[k]}; assert not changed, changed; "
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def imported(program: str) -> set[str]:
    """The modules of other packages that a program imports, by the name of the package."""
    command = [sys.executable, "-c", f"{program}; import sys; print(*sys.modules)"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in listed.stdout.split()}


def test_the_package_imports_jax_only_for_a_name():
    names = "import dualebm; assert dir(dualebm) == dualebm.__all__ and 'Dual' in dualebm.__all__"
    assert not imported(f"{names}; import dualebm.cli.values, dualebm.cli.cache") & {"jax", "numpy", "equinox"}


def test_the_methods_import_nothing_slow_but_jax_and_equinox():
    modules = imported("from dualebm.methods import registry; registry.by_name()")
    assert "jax" in modules and not modules & {"scipy", "optax", "pandas", "xarray", "zarr", "matplotlib", "tqdm", "tyro", "sklearn"}
