"""MelHuBERT in s3prl's newer programs, `s3prl-main PROBLEM`: SUPERB's tasks and those of HEAR."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("sed_eval")
pytest.importorskip("tensorboard")

PROBLEMS = ["SuperbASR", "SuperbPR", "SuperbIC", "SuperbKS", "SuperbSID", "HearESC50"]


@pytest.fixture
def cache(tmp_path, lexicon_file, voxceleb) -> Path:
    """Where s3prl looks for what it would fetch: pronunciations, and which file of VoxCeleb1 is for what."""
    from s3prl.dataio.encoder.g2p import DEFAULT_LEXICON_URL

    folder = tmp_path / ".cache/s3prl"
    (folder / "download").mkdir(parents=True)
    for url in DEFAULT_LEXICON_URL:
        name = f"{hashlib.sha256(url.encode()).hexdigest()}.{Path(url).name}"
        shutil.copy(lexicon_file, folder / "download" / name)
    shutil.copy(voxceleb[1], folder)
    return folder


@pytest.fixture
def sounds(tmp_path, write_audio) -> Path:
    """Three folds of four sounds of two classes, in HEAR's layout."""
    root = tmp_path / "esc50"
    for fold in range(3):
        labels = {f"{fold}-{i}.wav": ["dog" if i % 2 else "rain"] for i in range(4)}
        for i, name in enumerate(labels):
            write_audio(root / f"48000/fold{fold:02d}/{name}", samples=24_000, rate=48_000, seed=i % 2)
        (root / f"fold{fold:02d}.json").write_text(json.dumps(labels))
    return root


@pytest.fixture
def settings(problem, librispeech, voxceleb, speech_commands, fluent_commands, sounds) -> dict[str, object]:
    """The settings of a problem that name its corpus, and make it small."""
    speakers = [f"{path.name} | F | x | 1 | x" for path in librispeech.glob("*/*")]
    (librispeech / "SPEAKERS.TXT").write_text("\n".join([";ID |SEX| SUBSET |MINUTES| NAME", *speakers]))
    speech = {"dataset_root": librispeech, "n_jobs": 1}
    corpora: dict[str, dict[str, object]] = {
        "SuperbASR": speech,
        "SuperbPR": speech,
        "SuperbIC": {"dataset_root": fluent_commands},
        "SuperbKS": {
            "gsc1": speech_commands,
            "gsc1_test": speech_commands.parent / "speech_commands_test_set_v0.01",
        },
        "SuperbSID": {"dataset_root": voxceleb[0]},
        "HearESC50": {"dataset_root": sounds, "test_fold": 0, "num_folds": 3},
    }
    found = {f"prepare_data.{name}": value for name, value in corpora[problem].items()}
    return {**found, "build_downstream.model_conf.hidden_size": "[8,8]"} if problem == "SuperbASR" else found


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("problem", PROBLEMS)
def test_problem_is_trained_and_gone_on_with(problem, settings, reference, run_python, tmp_path):
    def run(steps: int) -> str:
        given = {
            "target_dir": tmp_path / "exp",
            "build_upstream.name": "melhubert_local",
            "build_upstream.path_or_url": reference / "tiny-20ms.ckpt",
            "build_upstream.extra_conf.feature_stats": "librispeech-360h",
            "device": "cpu",
            "num_workers": 0,
            "train.total_steps": steps,
            "train.gradient_accumulate": 1,
            **{f"train.{name}": 1 for name in ("log_step", "eval_step", "save_step")},
            **settings,
        }
        line = [word for name, value in given.items() for word in (f"--{name}", value)]
        done = run_python("-m", "s3prl.main", problem, *line, HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    first, second = run(1), run(2)
    assert re.findall(r"train at step (\d)", first + second) == ["1", "2"]
    for printed in (first, second):
        (loss,) = re.findall(r"test results: .*'loss': ([^,}]+)", printed)
        assert math.isfinite(float(loss))
