"""Commands that are killed at many moments and started again end with the numbers of one that was not killed, bit for bit."""

import numpy as np
import pytest

from tests.heavy import kills


@pytest.mark.parametrize("name", kills.COMMANDS)
def test_kills_change_no_number(tmp_path, name):
    assert kills.killed(name, tmp_path, 12, kills.moments()).kills == 12


def test_differences_are_seen():
    whole = {"a": np.array([1.0, np.nan]), "b": "text"}
    assert kills.differences(whole, {"a": np.array([1.0, np.nan]), "b": "text"}) == []
    assert kills.differences(whole, {"a": np.array([1.0, np.nextafter(2, 3)]), "b": "text"}) == ["a"]
    assert kills.differences(whole, {"a": whole["a"]}) == ["b"] == kills.differences({"a": whole["a"]}, whole)
    assert kills.differences(whole, {**whole, "b": "other"}) == ["b"]
