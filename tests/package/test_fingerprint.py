"""What differs is named, with both values, and provenance says what the numbers come from."""

import importlib.metadata
import subprocess
import sys
import types
import warnings

import jax
import pytest

from dualebm.cli import main
from dualebm.training import fingerprint
from dualebm.training.descriptions import describe


def test_differences_are_counted_beyond_four():
    stored, current = dict.fromkeys("abcdef", 0), dict.fromkeys("abcdef", 1)
    with pytest.raises(ValueError, match=r"a is 0 on disk and 1 in this call; .*; d is 0 on disk and 1 in this call; and 2 more; give"):
        fingerprint.check_settings("folder x", stored, current)


def drawn(n):
    return lambda key: [key] * 50 + n


def test_changed_functions_are_named():
    stored = {"data": describe(drawn([1])), "schedule": None}
    current = {"data": describe(lambda key: key), "schedule": describe(drawn)}
    with pytest.raises(
        ValueError,
        match=r"^folder x is of another run: data is the function drawn\.<locals>\.<lambda> on disk and the function "
        r"test_changed_functions_are_named\.<locals>\.<lambda> in this call; schedule is None on disk and the function drawn in this call; "
        "give another, or the same settings$",
    ):
        fingerprint.check_settings("folder x", stored, current)
    closed = fingerprint.differences(describe(drawn([1])), describe(drawn([2])), "data")
    assert closed == ["data.n is [1] on disk and [2] in this call"]

    def more(helper, constant):
        namespace = {"helper": helper}
        exec(f"def draw(key): return helper(key) + {constant} + 7", namespace)
        return describe(namespace["draw"])

    edited = fingerprint.differences(more(drawn, 50), more(drawn, 5000), "data")
    assert edited == ["data: the code of the function draw has changed: of its constants, 50 on disk and 5000 in this call"]
    nested = fingerprint.differences(more(lambda x: x + x, 50), more(lambda x: x * x, 50), "data")
    assert nested == [
        f"data.helper: the code of the function {test_changed_functions_are_named.__name__}.<locals>.<lambda> has changed"
    ]


def test_another_python_is_named():
    stored = describe(drawn)
    current = {**stored, "code": {"python": "3.99", "sha256": "0"}}
    with pytest.raises(
        ValueError,
        match=r"data: the function drawn was stored under Python 3\.\d+, whose bytecode cannot be compared with that of Python 3\.99; "
        "give another, or the same Python$",
    ):
        fingerprint.check_settings("folder x", {"data": stored}, {"data": current})


def test_versions_that_differ_are_one_warning():
    stored = [{"versions": {"jax": "1", "numpy": "2"}, "git_revision": "a"}] * 2
    with pytest.warns(UserWarning) as caught:
        fingerprint.warn_of_versions("folder x", stored, {"versions": {"jax": "1", "numpy": "3"}, "git_revision": "b"}, 1)
    assert [str(each.message) for each in caught] == [
        "folder x: numpy is '2' on disk and '3' in this call; git_revision is 'a' on disk and 'b' in this call; "
        "the records to come may differ from those that are there"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fingerprint.warn_of_versions("folder x", stored, stored[0], 1)


def test_provenance_has_the_versions_of_packages_that_are_used(monkeypatch):
    monkeypatch.setattr(fingerprint.importlib.metadata, "packages_distributions", lambda: {"imported_later": ["numpy"]})
    monkeypatch.setitem(sys.modules, "imported", types.SimpleNamespace(__version__="1.2"))
    versions = fingerprint.provenance(["scipy", "imported", "imported_later", "no_such_package"])["versions"]
    assert versions["scipy"] == importlib.metadata.version("scipy") and versions["imported"] == "1.2"
    assert versions["imported_later"] == versions["numpy"] and versions["no_such_package"] is None


def test_provenance_names_versions_and_revision():
    found = fingerprint.provenance()
    assert found["versions"]["jax"] == jax.__version__ and found["versions"]["python"].startswith("3.")
    assert found["backend"] == jax.default_backend() and found["device_count"] == jax.device_count()


def test_provenance_outside_git(tmp_path, monkeypatch):
    """And within another project's repository, as an installed package may be. In its own repository it has a revision."""
    monkeypatch.setattr(fingerprint, "__file__", str(tmp_path / "dualebm" / "training" / "fingerprint.py"))
    revision = lambda: fingerprint.provenance()["git_revision"]  # noqa: E731
    assert revision() is None
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    for name in (None, "mine", "dualebm"):
        if name:
            (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
        assert (revision() is not None) == (name == "dualebm")
    monkeypatch.setenv("PATH", "")
    assert revision() is None


def test_a_package_without_metadata_has_no_version(monkeypatch, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", dict)
    fingerprint.version_of.cache_clear()
    try:
        assert fingerprint.provenance()["versions"]["dualebm"] is None
        assert main.main(["--version"]) == 0 and "unknown" in capsys.readouterr().out
    finally:
        fingerprint.version_of.cache_clear()
