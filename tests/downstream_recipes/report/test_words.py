"""A result in words has every score, what it was reached with, and what of it is not SUPERB's."""

from __future__ import annotations

from s3prl_melhubert.downstream_recipes.difference import Difference
from s3prl_melhubert.downstream_recipes.report.results import PartResult, Trial

SHORTER = [Difference("runner.total_steps", 100000, 1500)]


def test_scores_come_first_and_differences_last(result):
    search = [Trial(1e-1, 13.0, "lr-0.1"), Trial(1e-2, 11.0, "lr-0.01")]
    swept = result(
        "asr",
        12.5,
        "m",
        "x/c.pt",
        dev=11.0,
        search=search,
        learning_rate=1e-2,
        with_language_model={"value": 9.25},
        notes=["the last checkpoint was tested"],
        differences=SHORTER,
    )
    lines = [
        "asr WER 9.25 % on test with a language model",
        "asr WER 12.50 % on test: m (x/c.pt) (dev 11.00 %)",
        "asr: learning rate 0.01, the best by WER on dev, of 0.01 (11.00 %), 0.1 (13.00 %)",
        "the last checkpoint was tested",
    ]
    not_superbs = ["not SUPERB's settings or corpus:", "  runner.total_steps 1500 (SUPERB: 100000)"]
    assert swept.in_words().splitlines() == [*lines, *not_superbs]
    assert swept.in_words(is_part=True).splitlines() == lines


def test_a_layer_further_scores_and_parts_are_told_and_nothing_that_is_not_there(result):
    assert result("sid", 50.0).in_words() == "sid ACC 50.00 % on test: fbank"
    assert result("qbe", 3.0, dev=4.0, layer=2, learning_rate=None).in_words() == (
        "qbe MTWV 3.00 % on test: fbank, layer 2 (dev 4.00 %)"
    )
    assert result("sd", 12.0, dev=70.0).in_words() == "sd DER 12.00 % on test: fbank (dev ACC 70.00 %)"
    assert result("sf", 40.0, further={"CER": 60.0}).in_words() == "sf F1 40.00 %, CER 60.00 % on test: fbank"
    folds = [PartResult(f"fold{n}", 50.0 + n, None, 1e-4, "test.txt") for n in (1, 3)]
    assert result("er", 52.0, parts=folds).in_words().splitlines() == [
        "er fold1 ACC 51.00 %",
        "er fold3 ACC 53.00 %",
        "er ACC 52.00 % on test: fbank",
    ]


def test_a_score_has_the_unit_of_its_metric(result):
    search = [Trial(rate, dev, "x") for rate, dev in ((1e-1, 2.125), (1e-2, 2.5))]
    enhanced = result(
        "se",
        2.5,
        dev=2.5,
        learning_rate=1e-2,
        search=search,
        further={"STOI": 93.5, "SI-SDRi": -8.0},
    )
    assert enhanced.in_words().splitlines() == [
        "se PESQ 2.50, STOI 93.50 %, SI-SDRi -8.00 dB on test: fbank (dev 2.50)",
        "se: learning rate 0.01, the best by PESQ on dev, of 0.01 (2.50), 0.1 (2.12)",
    ]
    assert result("ss", -4.5, dev=9.0).in_words() == "ss SI-SDRi -4.50 dB on test: fbank (dev 9.00 dB)"
