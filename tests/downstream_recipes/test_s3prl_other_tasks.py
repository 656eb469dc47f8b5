"""Tasks of s3prl's that are not SUPERB's, in its own unmodified program, on corpora of tones.

Each learns what the tones tell, and is held to what it says then, so that labels at another rate than the
features' or labels of other files would be noticed.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

pytestmark = pytest.mark.slow

RATE = 16_000
PITCHES = (200, 2000)  # Hz
PHONE = 2560  # samples of a phone: 16 labels of 10 ms


def tone(pitch: float, samples: int, rate: int = RATE) -> np.ndarray:
    """(n,) samples of a tone with some noise."""
    wave = 0.3 * np.sin(2 * np.pi * pitch / rate * np.arange(samples))
    return wave + np.random.default_rng(samples).normal(0, 0.01, samples)


def spoken(pitch: float, samples: int, rate: int) -> np.ndarray:
    """(n,) samples of a tone between silences, without which SoX takes it for noise."""
    silence = np.zeros(rate)
    noise = np.random.default_rng(samples).normal(0, 0.003, samples + 2 * rate)
    return np.concatenate([silence, tone(pitch, samples, rate), silence]) + noise


def write(path: Path, wave: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)


@pytest.fixture
def run_task(run_python, s3prl_checkout, reference, tmp_path) -> Callable[..., tuple[Path, str]]:
    """`run_task(task, settings, steps, splits, test=None)`: train, test; the folder and what was printed."""

    def run(
        task: str, settings: dict, steps: int, splits: list[str], test: str | None = None, period: int = 20
    ) -> tuple[Path, str]:
        runner = dict.fromkeys(("total_steps", "log_step", "eval_step", "save_step"), steps)
        runner |= {"gradient_clipping": 1, "gradient_accumulate_steps": 1, "max_keep": 1}
        config = {
            "runner": {**runner, "eval_dataloaders": splits},
            "optimizer": {"name": "AdamW", "lr": 0.01},
            "downstream_expert": settings,
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        (tmp_path / "g.yaml").write_text("feature_stats: librispeech-360h\n")
        experiment = tmp_path / f"{task}-{period}"
        upstream = ["-u", "melhubert_local", "-k", reference / f"tiny-{period}ms.ckpt"]
        train = ["-m", "train", *upstream, "-g", tmp_path / "g.yaml", "-d", task, "-p", experiment]
        commands = [[*train, "-c", tmp_path / "config.yaml"]]
        if test is not None:
            commands.append(["-m", "evaluate", "-t", test, "-e", experiment])
        for command in commands:
            done = run_python(
                "run_downstream.py",
                *command,
                "--device",
                "cpu",
                cwd=s3prl_checkout,
                PYTHONPATH=str(s3prl_checkout.parent),
                OMP_NUM_THREADS="1",  # Several would wait for one another at models as small as these.
            )
            assert done.returncode == 0, done.stderr[-3000:]
        return experiment, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("period", [20, 10])
def test_phones_of_frames_are_learnt_at_either_frame_period(period, run_task, tmp_path):
    """The labels are every 10 ms: s3prl repeats each frame of 20 ms."""
    random, labels, table, names = np.random.default_rng(0), [], ["file_path,length"], []
    for i in range(24):
        phones = random.integers(2, size=5 + i % 4)
        wave = np.concatenate([tone(PITCHES[phone], PHONE) for phone in phones])
        name = f"19-198-{i:04d}"
        write(tmp_path / f"LibriSpeech/train-clean-100/19/198/{name}.flac", wave)
        each_frame = np.repeat(phones, 16)[: 1 + (len(wave) - 400) // 160]
        labels.append(" ".join([name, *map(str, each_frame)]))
        table.append(f"train-clean-100/19/198/{name}.flac,{len(wave)}")
        names.append(name)
    for file, lines in {
        "converted_aligned_phones.txt": labels,
        "train_split.txt": names[:16],
        "test_split.txt": names[16:],
        "train-clean-100.csv": table,
    }.items():
        (tmp_path / file).write_text("\n".join(lines) + "\n")
    data = {
        "libri_root": str(tmp_path / "LibriSpeech"),
        "phone_path": str(tmp_path),
        "bucket_file": str(tmp_path),
        "train_batch_size": 4,
        "eval_batch_size": 4,
        "num_workers": 0,
    }
    settings = {"datarc": data, "modelrc": {"none": None}}
    experiment, _ = run_task("phone_linear", settings, 60, ["test"], period=period)
    (accuracy,) = re.findall(r"libri_phone/test-\|step:60\|acc:(\S+)", (experiment / "log.log").read_text())
    assert float(accuracy) > 0.95


def test_out_of_domain_asr_writes_what_is_said(run_task, tmp_path):
    sentences = ("SÍ", "NO")
    for split, number in {"train": 6, "dev": 2, "test": 4}.items():
        lines = ["path\tsentence"]
        for i in range(number):
            write(tmp_path / f"clips/{split}{i}.wav", tone(PITCHES[i % 2], 10_000 - 500 * i))
            lines.append(f"{split}{i}.wav\t{sentences[i % 2]}")
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "characters.txt").write_text("\n".join("SÍNO") + "\n", encoding="utf-8")
    tables = {split: [str(tmp_path / f"{split}.tsv")] for split in ("train", "dev", "test")}
    corpus = {"name": "common_voice", "path": str(tmp_path / "clips"), **tables}
    recurrent = {
        "total_rate": 320,
        "module": "LSTM",
        "bidirection": True,
        "dim": [16],
        "dropout": [0.0],
        "layer_norm": [False],
        "proj": [True],
        "sample_rate": [1],
        "sample_style": "drop",
    }
    settings = {
        "corpus": {**corpus, "bucketing": True, "batch_size": 2, "num_workers": 0},
        "text": {"mode": "character", "vocab_file": str(tmp_path / "characters.txt")},
        "model": {"project_dim": 16, "zero_infinity": True, "select": "RNNs", "RNNs": recurrent},
        "save_best_on": ["dev"],
        "metric_higher_better": False,
        "metric": ["wer", "cer"],
    }
    experiment, printed = run_task("ctc", settings, 200, ["dev"], "test")
    assert "test wer: 0.0" in printed
    written = (experiment / "test-hyp.ark").read_text(encoding="utf-8").splitlines()
    assert sorted(written) == ["test0 SÍ", "test1 NO", "test2 SÍ", "test3 NO"]


def test_opinions_of_voices_are_learnt_and_judges_are_known_again(run_task, tmp_path):
    """The higher voice of the two is liked, and one judge likes everything a little more."""
    names = [f"N{11 + i % 2}_VCC2TF2_VCC2SF4_3000{i}_SPO.wav" for i in range(6)]
    for i, name in enumerate(names):
        folder = tmp_path / "2018/Converted_speech_of_submitted_systems"
        write(folder / name, tone(PITCHES[i % 2], 20_000 + 3000 * i, 22_050), 22_050)
    lines = ["WAV_PATH,MEAN,MOS,JUDGE"]
    for i, name in enumerate(names):
        mean = 2.0 + 2 * (i % 2)
        lines += [f"{name},{mean},{mean - 0.5},QMRO", f"{name},{mean},{mean + 0.5},EPUX"]
    for split in ("train", "valid", "test"):
        (tmp_path / f"2018/{split}_judge.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "2018/VCC2018_Results").mkdir()
    table = tmp_path / "2018/VCC2018_Results/system_mos_all_trackwise.csv"
    table.write_text("N11_SPO,N12_SPO\n2.0,4.0\n")
    for i, system in enumerate("AB"):
        write(tmp_path / f"2016/unified_speech/{system}_SF1_1.wav", tone(PITCHES[i], 20_000))
    (tmp_path / "2016/system_mos.csv").write_text("A,B\n2.0,4.0\n")
    data = {f"vcc{year}_file_path": str(tmp_path / str(year)) for year in (2016, 2018)}
    settings = {
        "datarc": {**data, "train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0},
        "modelrc": {
            "projector_dim": 16,
            "clipping": True,
            "attention_pooling": True,
            "segment_weight": 1,
            "bias_weight": 1,
        },
    }
    _, printed = run_task("mos_prediction", settings, 60, ["dev"], "vcc2018_test")
    figures = dict(re.findall(r"\[vcc2018_test\] (\S+ \S+) += (\S+)", printed))
    assert float(figures["Utterance-level MSE"]) < 0.2  # 1 would be the mean of all
    assert float(figures["System-level LCC"]) > 0.99


def test_spoken_terms_are_found_where_they_are_said(run_task, tmp_path):
    """Two queries of one pitch each, and recordings of which one has the pitch of a query."""
    root = tmp_path / "sws2013"
    for s, split in enumerate(("dev", "eval")):
        scoring = root / f"scoring/sws2013_{split}"
        scoring.mkdir(parents=True)
        excerpts, occurrences, terms = "", "", ""
        for i, pitch in enumerate((300, 2000)):
            name, query = f"sws2013_{10 * s + i:05d}", f"sws2013_{split}_{i:03d}"
            write(root / f"Audio/{name}.wav", spoken(pitch, 24_000 + 4000 * i, 8000), 8000)
            write(root / f"{split}_queries/{query}.wav", spoken(pitch, 20_000, 8000), 8000)
            excerpts += f'<excerpt audio_filename="Audio/{name}.wav" dur="{5 + i / 2}"/>'
            occurrences += f"LEXEME {name} 1 1.00 2.50 {query} lex spk 0.5\n"
            terms += f'<term termid="{query}"/>'
        (scoring / "sws2013.ecf.xml").write_text(f"<ecf>{excerpts}</ecf>")
        (scoring / f"sws2013_{split}.rttm").write_text(occurrences)
        (scoring / f"sws2013_{split}.tlist.xml").write_text(f"<termlist>{terms}</termlist>")
    data = {"sws2013_root": str(root), "sws2013_scoring_root": str(root / "scoring"), "quesst2014_root": ""}
    settings = {
        "datarc": {**data, "batch_size": 4, "valid_size": 4, "num_workers": 0},
        "modelrc": {"bottleneck_dim": 16, "hidden_dim": 16},
        "lossrc": {"margin": 0.0},
    }
    experiment, _ = run_task("sws2013", settings, 40, ["valid"], "sws2013_eval")
    found = {}
    for query in ET.parse(experiment / "benchmark.stdlist.xml").getroot():
        scores = {term.get("file"): float(term.get("score")) for term in query}
        assert set(scores) == {"sws2013_00010", "sws2013_00011"}
        found[query.get("termid")] = max(scores, key=scores.get)
    assert found == {"sws2013_eval_000": "sws2013_00010", "sws2013_eval_001": "sws2013_00011"}
