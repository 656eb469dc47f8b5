"""Files of settings that are no settings: each gets one line with its name, soon and in little memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from s3prl_melhubert import MelHuBERTConfig, MelHuBERTError
from s3prl_melhubert.pretrain.training.settings import Settings
from s3prl_melhubert.support.settings import read_yaml_mapping

LAUGHS = "\n".join(
    ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
)

BAD = {
    "date": "melhubert: {dropout: 2020-99-99}",
    "tag": "melhubert: {encoder_layers: !!int x}",
    "unknown tag": "melhubert: !!python/object:os.system {}",
    "digits": f"melhubert: {{encoder_layers: {'9' * 10_000}}}",
    "hexadecimal digits": f"melhubert: {{encoder_layers: 0x{'f' * 20_000}}}",
    "nesting": "melhubert: " + "[" * 20_000,
    "nested mappings": "a: {" * 3000,
    "laughs": LAUGHS + "\nmelhubert: {dropout: *a11}",
    "an alias of itself": "melhubert: &a {dropout: *a}",
    "binary": "melhubert: !!binary '*'",
    "unhashable key": "? [1]\n: 2",
    "two documents": "a: 1\n---\nb: 2",
    "control character": "a: \x01",
    "merge of a number": "melhubert: {<<: 3}",
    "set": "melhubert: !!set {encoder_layers}",
    "long": "# " + "x" * 2_000_000,
    "null byte": "a: \x00",
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("read", [MelHuBERTConfig.from_yaml, Settings.from_yaml])
def test_bad_yaml_gets_one_line_soon_and_in_little_memory(case, read, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(BAD[case])
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(MelHuBERTError) as error:
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(error.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    # A time of this process alone; it does not grow while others have the cores.
    assert time.process_time() - start < 10
    assert peak < 100e6


def test_anchors_and_merges_that_people_write_are_read(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("base: &base {a: 1}\nother: {<<: *base, b: [*base, *base]}\n")
    assert read_yaml_mapping(path)["other"] == {"a": 1, "b": [{"a": 1}, {"a": 1}]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sid: a\npr: b\nsid: c\n", "key 'sid' in line 3 is there already, in line 1"),
        ("runner:\n  seed: 1\n  'seed': 2\n", "key 'seed' in line 3 is there already, in line 2"),
        ("melhubert: {dropout: 0.1, dropout: 0.2}", "key 'dropout' in line 1 is there already, in line 1"),
    ],
)
def test_key_that_is_there_twice_is_refused_with_its_lines(text, words, tmp_path):
    """PyYAML would take the later one without a word."""
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(MelHuBERTError, match=words) as raised:
        read_yaml_mapping(tmp_path / "settings.yaml")
    assert str(raised.value).startswith(f"{tmp_path / 'settings.yaml'}: ")
    assert "\n" not in str(raised.value)


def test_keys_may_replace_merged_ones_and_be_the_same_in_different_mappings(tmp_path):
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [{x: 1}, {x: 2}]\nd: {<<: *a, x: 0}\n"
    (tmp_path / "settings.yaml").write_text(text)
    content = read_yaml_mapping(tmp_path / "settings.yaml")
    assert content["b"] == {"x": 1, "y": 3}
    assert content["d"] == {"x": 0, "y": 2}
