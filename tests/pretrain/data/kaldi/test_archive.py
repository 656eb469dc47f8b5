"""What of an archive is refused: lists that disagree, damage, and what would run a command."""

import kaldiio
import numpy as np
import pytest

from s3prl_melhubert import MelHuBERTError
from s3prl_melhubert.pretrain.data.kaldi.convert import prepare_kaldi
from s3prl_melhubert.pretrain.data.workers import Workers


@pytest.fixture
def refused(archive, tmp_path):
    """`refused(words)`: assert that the archive is, with an error that these words match."""

    def check(words: str) -> None:
        with pytest.raises(MelHuBERTError, match=words):
            prepare_kaldi(archive.folder, tmp_path / "out", workers=Workers(jobs=1))

    return check


FEATURES, LABELS = r".*train-clean-360\.scp", r".*k512-e10\.bas\.scp"


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("utt-b", None, f"utterance utt-b: in {FEATURES}, but not in {LABELS}"),
        ("utt-d", [1, 2], f"utterance utt-d: in {LABELS}, but not in {FEATURES}"),
        ("utt-b", range(39), "utterance utt-b: 40 frames, but 39 labels .* expected 40 at 10 ms"),
        ("utt-c", [600] * 17, "utterance utt-c: cluster id 600 .* expected 0 to 511"),
        ("utt-c", [-1] * 17, "utterance utt-c: cluster id -1"),
        ("utt-c", ["x"] * 17, "utterance utt-c .* expected cluster ids"),
        ("utt-c", [10**30] * 17, "utterance utt-c .* expected cluster ids"),
        ("utt-c", ["1_0"] * 17, "utterance utt-c .* expected cluster ids"),  # which Python reads as 10
    ],
)
def test_lists_that_disagree_are_errors_that_name_the_utterance(archive, refused, key, values, words):
    ids = {name: range(n) for name, n in archive.lengths.items()}
    if values is None:
        del ids[key]
    else:
        ids[key] = values
    archive.write_labels(ids)
    refused(words)


def test_damaged_lists_are_errors_that_name_the_line(archive, refused):
    scp = archive.features.read_text()
    archive.features.write_text(scp.replace(".ark:", ".gone:"))
    refused(r"line 1: .*feats\.gone is not there \(utterance utt-a\)")
    # What Kaldi would run as a command is refused.
    archive.features.write_text("utt-a cat feats.ark |\n")
    refused(r"line 1: 'utt-a cat feats.ark \|' found, expected `key path:offset`")
    archive.features.write_text(scp + scp.splitlines()[0])
    refused("line 4: utterance utt-a is listed twice")
    archive.features.write_text(scp.replace("feats.ark:6\n", f"feats.ark:{2**63}\n"))
    refused(rf"line 1: .*feats\.ark ends before byte {2**63} \(utterance utt-a\); is the archive complete")
    # One of two files of the same name would be read in the place of both.
    archive.features.write_text(scp.replace("utt-b /home/somebody/fbank/", "utt-b /home/somebody/more/"))
    refused(r"line 2: /home/somebody/more/feats\.ark and /home/somebody/fbank/feats\.ark are two files")
    archive.features.write_text("\n")
    refused(r"train-clean-360\.scp: no utterances in it")
    archive.features.write_text(scp)
    lines = archive.labels.read_text().splitlines()
    key, _, offset = lines[1].rpartition(":")
    archive.labels.write_text("\n".join([lines[0], f"{key}:{int(offset) - 2}", lines[2]]))
    refused("utterance utt-b .* no line or number begins there; does the list fit the file")


def test_damaged_matrices_are_errors_that_name_the_place(archive, refused):
    scp, whole = archive.features.read_text(), archive.ark.read_bytes()
    archive.ark.write_bytes(whole[:-100])
    refused("utterance utt-c .*damaged matrix .17 frames are more than the file holds")
    archive.ark.write_bytes(b"x" * len(whole))
    refused("utterance utt-a .*no binary Kaldi matrix")
    archive.ark.write_bytes(whole.replace(b"FM ", b"QM ", 1))
    refused("utterance utt-a .*damaged matrix")
    narrow = {key: value[:, :39] for key, value in archive.matrices.items()}
    kaldiio.save_ark(str(archive.ark), narrow, scp=str(archive.features))
    refused(r"utterance utt-a .*shape \(31, 39\)")
    archive.features.write_text(scp)
    figure = archive.matrices["utt-b"][3, 4].tobytes()
    archive.ark.write_bytes(whole.replace(figure, np.float32(np.inf).tobytes()))
    refused("utterance utt-b .*feats.ark.*NaN or infinite")


def test_damaged_statistics_are_errors_that_name_the_file(archive, refused):
    whole = archive.mean_var.read_text()
    for end in ("inf\n", "-88\n", "0.5\n", "\n"):
        archive.mean_var.write_text(whole.removesuffix("88\n") + end)
        refused("train-clean-360.mean-var: expected three lines")
    archive.mean_var.write_text("[1, 2]\n[1, 4]\n7\n")
    refused("train-clean-360.mean-var: expected three lines")
    archive.mean_var.write_text(f"{[0.0] * 40}\n{[1e-75] * 40}\n1\n")  # a deviation of 3e-38
    refused("utterance utt-a .*frames too large for the statistics of the archive")
    archive.mean_var.unlink()
    refused(r"no NAME.mean-var \(statistics\)")
