"""What an output was made from is compared in one way, and told in a line."""

from __future__ import annotations

from s3prl_melhubert.support.made_from import changes


def in_words(before, now, **options):
    return [str(change) for change in changes(before, now, **options)]


def test_what_changed_is_told_with_both_values():
    assert in_words({"seed": 1, "layer": 9}, {"seed": 2, "layer": 9}) == ["seed 1, now 2"]
    assert in_words({"layer": 9}, {"window": [50, 12]}) == [
        "layer 9, now absent",
        "window absent, now [50, 12]",
    ]


def test_what_earlier_versions_did_not_note_may_count_as_the_same():
    assert in_words({"seed": 1}, {"seed": 1, "window": 5}, absent_is_same=True) == []
    assert in_words({"seed": 1}, {"seed": 2, "window": 5}, absent_is_same=True) == ["seed 1, now 2"]


def test_of_a_mapping_only_what_changed_is_told():
    before = {"optimizer": {"name": "Adam", "lr": 0.1, "betas": [0.9, 0.98], "eps": 1e-6, "decay": 0}}
    now = {"optimizer": {**before["optimizer"], "lr": 0.2}}
    assert in_words(before, now) == ["optimizer lr 0.1, now 0.2"]
    assert in_words({"window": {"s": 1}}, {}) == ["window {'s': 1}, now absent"]
    assert in_words({"window": {"s": None}}, {"window": {}}) == ["window {'s': None}, now {}"]


def test_a_long_value_is_told_in_a_line():
    [told] = in_words({"data": ["a" * 1000] * 1000}, {"data": "b" * 100_000})
    assert len(told) < 1000
