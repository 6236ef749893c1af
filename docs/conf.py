"""The site: `sphinx-build -W -j auto docs site`, after `pip install -e '.[docs]'`.

Pages are MyST Markdown. A page with a `kernelspec` in its front matter is a notebook, which the build executes. What it printed and drew is
kept in the user's cache, in a folder for each state of the package: a page is executed again when the page or the package has changed.
"""

import hashlib
import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

import platformdirs

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))


def state_of_package() -> str:
    """Returns a hash of the package's files and of the version of JAX."""
    digest = hashlib.sha256(importlib.metadata.version("jax").encode())
    for path in sorted(file for file in (HERE.parent / "dualebm").rglob("*") if file.suffix in (".py", ".pyi", ".json", ".csv")):
        digest.update(str(path.relative_to(HERE.parent)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


# What notebooks run under. The processes of the kernels inherit it.
CACHE = Path(platformdirs.user_cache_dir("dualebm")) / "site"
SHELL = CACHE / "ipython/profile_default/startup/shell.py"
SHELL.parent.mkdir(parents=True, exist_ok=True)
SHELL.write_text((HERE / "_extensions" / "shell_lines.py").read_text())
os.environ["IPYTHONDIR"] = str(CACHE / "ipython")
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # finds `dualebm`
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

project = "dualebm"
author = "the dualebm developers"
copyright = "2026, the dualebm developers"
release = version = importlib.metadata.version("dualebm")

# Of the states of the package the newest four are kept.
for old in sorted((CACHE / "pages").glob("*"), key=lambda folder: folder.stat().st_mtime)[:-3]:
    if old.name != state_of_package():
        shutil.rmtree(old, ignore_errors=True)

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "api_pages",
    "command_help",
    "mathml",
    "report_table",
]
exclude_patterns = ["_build", "_extensions", "README.md"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_url_schemes = ("http", "https", "mailto")

nb_execution_mode = "cache"
nb_execution_cache_path = str(CACHE / "pages" / state_of_package())
nb_execution_in_temp = True
nb_execution_timeout = 180
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_default_options = {"members": True, "special-members": "__call__", "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
default_role = "dualebm"  # single backticks in docstrings
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "dualebm"
html_static_path = ["_static"]
html_css_files = ["site.css"]
