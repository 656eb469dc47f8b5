"""`melhubert doctor`: a sound environment, and broken ones, made of tiny packages in place of real ones."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import s3prl_melhubert
from s3prl_melhubert.doctor import environment, libraries
from s3prl_melhubert.doctor.findings import Context
from s3prl_melhubert.doctor.report import CHECKS

PACKAGE = Path(s3prl_melhubert.__file__).resolve().parent

TORCH = """
__version__ = {version!r}
class version: cuda = {cuda!r}
class cuda:
    device_count = staticmethod(lambda: 0)
    is_available = staticmethod(lambda: False)
"""
LIBC10 = 'raise OSError("libc10_cuda.so: cannot open shared object file: No such file or directory")'
DIFFERENT = (
    'raise RuntimeError("Detected that PyTorch and TorchAudio were compiled with different CUDA versions. '
    'PyTorch has CUDA version 13.2 whereas TorchAudio has CUDA version 13.0.")'
)


def distribution(folder: Path, name: str, version: str, code: str) -> None:
    """A package of one file, installed in `folder` as far as Python can tell."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def diagnose(run_python, tmp_path):
    """Run the doctor with the packages of `fake` before all others: exit status, and its lines by status."""

    def run(**environment: str) -> tuple[int, dict[str, list[str]]]:
        path = os.pathsep.join(filter(None, [str(tmp_path / "fake"), os.environ.get("PYTHONPATH")]))
        done = run_python("-m", "s3prl_melhubert", "doctor", **{"PYTHONPATH": path, **environment})
        assert "Traceback" not in done.stderr + done.stdout
        return done.returncode, by_status(done.stdout)

    return run


def by_status(printed: str) -> dict[str, list[str]]:
    """Lines by status; each problem with its command behind it."""
    lines: dict[str, list[str]] = {"ok": [], "note": [], "skipped": [], "problem": []}
    for line in printed.splitlines():
        status, _, text = line.partition(" ")
        if status in lines:
            lines[status].append(text.strip())
        elif line.strip().startswith("mend: "):
            lines["problem"][-1] += f"\n{line.strip()}"
    return lines


def the(lines: list[str], word: str) -> str:
    """The one line that holds a word."""
    found = [line for line in lines if word in line]
    assert len(found) == 1, lines
    return found[0]


def test_sound_environment(diagnose, installed_s3prl):
    status, lines = diagnose()
    assert not lines["problem"]
    assert not lines["skipped"]
    assert status == 0
    the(lines["ok"], "torchaudio")
    assert "WAV, FLAC" in the(lines["ok"], "libsndfile")
    hub = the(lines["ok"], "s3prl 0.4")
    assert "upstream melhubert" in hub
    # Several copies of s3prl may be on a disk: pip's, and checkouts.
    assert f"({installed_s3prl})" in hub


def test_torchaudio_beside_a_newer_torch(diagnose, tmp_path):
    distribution(tmp_path / "fake", "torch", "2.15.0", TORCH.format(version="2.15.0+cu132", cuda="13.2"))
    distribution(tmp_path / "fake", "torchaudio", "2.11.0", DIFFERENT)
    status, lines = diagnose()
    assert status == 1
    command = "-m pip install torch==2.11.0 torchaudio==2.11.0"
    assert command in the(lines["problem"], "torch 2.15.0+cu132 found").replace("--force-reinstall ", "")
    pair = the(lines["problem"], "beside torch 2.15.0")
    assert "built for torch 2.11" in pair
    assert "different CUDA versions" in pair
    assert "torch==2.11.0 torchaudio==2.11.0" in pair
    assert "torchaudio" in the(lines["skipped"], "s3prl")


def test_torchaudio_for_cuda_beside_torch_for_the_cpu(diagnose, tmp_path):
    distribution(tmp_path / "fake", "torch", "2.11.0+cpu", TORCH.format(version="2.11.0+cpu", cuda=None))
    distribution(tmp_path / "fake", "torchaudio", "2.11.0", LIBC10)
    status, lines = diagnose()
    assert status == 1
    assert "for the CPU only" in the(lines["ok"], "torch 2.11.0+cpu")
    pair = the(lines["problem"], "torchaudio")
    assert "torchaudio was built for CUDA, this torch for the CPU only" in pair
    assert "pip install --force-reinstall torch==2.11.0 torchaudio==2.11.0" in pair


def test_torchaudio_that_says_that_it_fits_is_replaced_by_one_that_does(diagnose, tmp_path):
    """torchaudio 2.11.1 asks for torch 2.11 or newer, and uses a symbol that torch 2.11.0 does not have."""
    distribution(tmp_path / "fake", "torch", "2.11.0", TORCH.format(version="2.11.0+cu130", cuda="13.0"))
    distribution(tmp_path / "fake", "torchaudio", "2.11.1", "raise OSError('undefined symbol: torch_e')")
    status, lines = diagnose()
    assert status == 1
    pair = the(lines["problem"], "torchaudio 2.11.1 beside torch 2.11.0")
    assert "expected >=2.4,<2.11.1" in pair
    assert "pip install torchaudio==2.11.0" in pair


def test_torchaudio_of_another_release_is_fitted_to_torch(diagnose, tmp_path):
    distribution(tmp_path / "fake", "torch", "2.9.1", TORCH.format(version="2.9.1", cuda="12.8"))
    distribution(tmp_path / "fake", "torchaudio", "2.11.0", "raise OSError('undefined symbol: aoti_torch')")
    status, lines = diagnose()
    assert status == 1
    pair = the(lines["problem"], "torchaudio")
    assert "pip install 'torchaudio==2.9.*'" in pair
    assert "'torch==" not in pair


def test_one_release_for_two_versions_of_cuda(diagnose, tmp_path):
    distribution(tmp_path / "fake", "torch", "2.9.1", TORCH.format(version="2.9.1+cu130", cuda="13.0"))
    distribution(tmp_path / "fake", "torchaudio", "2.9.1", DIFFERENT)
    pair = the(diagnose()[1]["problem"], "torchaudio")
    assert "different versions of CUDA" in pair
    assert "--force-reinstall 'torch==2.9.*' 'torchaudio==2.9.*'" in pair


def test_a_crash_while_importing_is_a_finding(diagnose, tmp_path):
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    distribution(tmp_path / "fake", "torch", "2.11.0", crash)
    distribution(tmp_path / "fake", "editdistance", "0.8.1", crash)
    distribution(tmp_path / "fake", "gdown", "4.7.1", "")
    distribution(tmp_path / "fake", "pandas", "2.0", "raise ImportError('numpy.core.multiarray failed')")
    status, lines = diagnose()
    assert status == 1
    assert "SIGSEGV" in the(lines["problem"], "torch 2.11.0 cannot be imported")
    assert "SIGSEGV" in the(lines["problem"], "editdistance")
    assert "pip install 'gdown>=" in the(lines["problem"], "gdown 4.7.1 found")
    assert "multiarray" in the(lines["problem"], "pandas 2.0 cannot be imported")
    assert len(lines["problem"]) == 4  # what comes after a crash is tried, and torch's crash is torch's
    for text in ("torchaudio: needs torch", "accelerate: needs torch", "CUDA: needs torch"):
        the(lines["skipped"], text)


def test_autoload_switched_off_is_told(diagnose, tmp_path):
    distribution(tmp_path / "fake", "torch", "2.11.0", "raise ImportError('a quick end')")
    status, lines = diagnose(S3PRL_MELHUBERT_AUTOLOAD="0")
    assert status == 1
    assert "mend: unset S3PRL_MELHUBERT_AUTOLOAD" in the(lines["problem"], "AUTOLOAD=0 is set")


def test_download_folder_that_cannot_be_made(diagnose, tmp_path):
    distribution(tmp_path / "fake", "torch", "2.11.0", "raise ImportError('a quick end')")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".cache").touch()
    lines = diagnose(HOME=str(tmp_path / "home"), USERPROFILE=str(tmp_path / "home"))[1]
    assert f"mv {tmp_path / 'home' / '.cache'}" in the(lines["problem"], "downloads")


def test_of_folders_above_the_home_folder_nothing_is_to_be_changed(tmp_path, monkeypatch):
    """The folder above a home that is not there may be `/`."""

    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    monkeypatch.setattr(environment.tempfile, "TemporaryFile", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    assert [finding.mend for finding in environment.check_cache(Context())] == ["export HOME=FOLDER"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [finding.mend for finding in environment.check_cache(Context())] == [f"chmod u+rwx {tmp_path}"]


@pytest.mark.parametrize(("fault", "mend"), [(errno.ENOSPC, "df -h "), (errno.EROFS, "export HOME=FOLDER")])
def test_a_disk_at_fault_is_not_mended_by_rights(fault, mend, tmp_path, monkeypatch):
    def refuse(dir):
        raise OSError(fault, os.strerror(fault), str(dir))

    monkeypatch.setattr(environment.tempfile, "TemporaryFile", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    (finding,) = environment.check_cache(Context())
    assert finding.mend.startswith(mend)


def test_a_link_to_a_disk_that_is_not_there_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache").symlink_to(tmp_path / "my disk/cache")
    (finding,) = environment.check_cache(Context())
    assert finding.status == "problem"
    assert finding.mend.startswith(f"mkdir -p '{tmp_path / 'my disk/cache'}'")
    (tmp_path / "my disk/cache").mkdir(parents=True)
    assert [finding.status for finding in environment.check_cache(Context())] == ["ok"]


def test_a_folder_that_may_not_be_looked_into_is_a_problem_and_no_traceback(tmp_path, monkeypatch):
    cache = tmp_path / ".cache"
    (cache / "s3prl").mkdir(parents=True)

    def as_in_a_closed_folder(function):
        def answer(path, *arguments, **options):
            if os.fspath(path).startswith(f"{cache}/"):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return function(path, *arguments, **options)

        return answer

    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, as_in_a_closed_folder(getattr(os, name)))
    monkeypatch.setattr(environment.tempfile, "TemporaryFile", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [finding.mend for finding in environment.check_cache(Context())] == [f"chmod u+rwx {cache}"]


def test_no_folder_for_temporary_files_is_a_problem_and_no_traceback(monkeypatch):
    monkeypatch.setattr(environment.tempfile, "tempdir", None)
    monkeypatch.setattr(environment.tempfile, "_candidate_tempdir_list", lambda: ["/nowhere/tmp"])
    context = Context()
    (finding,) = environment.check_temporary(context)
    assert (finding.status, finding.mend) == ("problem", "export TMPDIR=FOLDER")
    assert [each.status for each in libraries.check_audio(context)] == ["skipped"]


def test_home_folder_is_looked_at_before_s3prl_which_cannot_be_imported_without_it():
    titles = [title for title, _ in CHECKS]
    assert titles.index("the download folder") < titles.index("s3prl")


def test_environment_without_any_library(tmp_path):
    """A bare virtual environment that finds the package through PYTHONPATH alone."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    python = tmp_path / "bare" / ("Scripts" if os.name == "nt" else "bin") / "python"
    source = tmp_path / "source"  # the package alone, no metadata beside it
    source.mkdir()
    (source / "s3prl_melhubert").symlink_to(PACKAGE)
    done = subprocess.run(
        [python, "-m", "s3prl_melhubert", "doctor"],
        env={**os.environ, "PYTHONPATH": str(source)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    problems = by_status(done.stdout)["problem"]
    assert "torch==2.11.0 torchaudio==2.11.0" in the(problems, "torch is not installed")
    for name in ("numpy", "soundfile", "tensorboardX", "s3prl"):
        assert "pip install" in the(problems, f"{name} is not installed")
    assert "but is not installed" in the(problems, "s3prl will not know it")
    the(problems, "s3prl_melhubert.pth")


def test_second_copy_of_the_package(diagnose, tmp_path):
    distribution(tmp_path / "fake", "torch", "2.11.0", "raise ImportError('a quick end')")
    (tmp_path / "other" / "s3prl_melhubert").mkdir(parents=True)
    (tmp_path / "other" / "s3prl_melhubert" / "__init__.py").touch()
    # Behind the fake packages and the folder of the copy that runs, so that it is not the one that runs.
    path = os.pathsep.join(map(str, (tmp_path / "fake", PACKAGE.parent, tmp_path / "other")))
    problem = the(diagnose(PYTHONPATH=path)[1]["problem"], "two copies")
    assert str(tmp_path / "other" / "s3prl_melhubert") in problem
    assert "mend: " in problem


def test_doctor_itself_imports_no_torch():
    script = "import sys, s3prl_melhubert.doctor.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
