"""What pip installs: a wheel with all parts in one package, its YAML and the .pth, and nothing beside it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PARENT = "zz_parent.pth"
FOLDERS = ("s3prl_melhubert", "upstream_expert", "pretrain", "downstream_recipes")

pytest.importorskip("setuptools", minversion="70")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the checkout, so that nothing is built inside it."""
    copy = tmp_path_factory.mktemp("source") / "s3prl-melhubert"
    leave_out = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "reference")
    shutil.copytree(CHECKOUT, copy, ignore=leave_out)
    return copy


def build(source: Path, kind: str, target: Path) -> Path:
    """What a build tool would call: the build backend, in its own process."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    target.mkdir(exist_ok=True)
    result = subprocess.run(
        [sys.executable, "-c", code, str(target)], cwd=source, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return target / result.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_every_module_and_data_file_inside_one_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in FOLDERS:
        home = "s3prl_melhubert" if folder == "s3prl_melhubert" else f"s3prl_melhubert/{folder}"
        for path in (CHECKOUT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml", ".typed") or path.name == "py.typed":
                assert f"{home}/{path.relative_to(CHECKOUT / folder)}" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"s3prl_melhubert", "s3prl_melhubert.pth"} | {t for t in tops if t.endswith(".dist-info")}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_source_distribution_builds_the_same_wheel(source, wheel, tmp_path):
    with tarfile.open(build(source, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("s3prl_melhubert-*")
    again = build(unpacked, "wheel", tmp_path / "wheel")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_editable_install_carries_the_pth_too(source, tmp_path):
    wheel = build(source, "editable", tmp_path)
    assert "s3prl_melhubert.pth" in zipfile.ZipFile(wheel).namelist()


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A virtual environment with the wheel installed, over the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, system_site_packages=True, symlinks=True)
    python = folder / "bin/python"
    site_packages = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    # `system` means the interpreter's own packages; where the tests themselves run in a virtual
    # environment, torch and s3prl are in that. A path in a .pth file does not read further .pth files.
    parent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / PARENT).write_text("\n".join(sorted(parent)) + "\n")
    return folder, site_packages


def run(environment, *arguments, cwd: Path) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [environment[0] / "bin" / arguments[0], *map(str, arguments[1:])],
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_installed_wheel_works_outside_the_checkout(environment, tmp_path, reference):
    where = run(environment, "python", "-c", "import s3prl_melhubert as m; print(m.__file__)", cwd=tmp_path)
    assert where.startswith(str(environment[1]))
    code = """
import sys, s3prl.hub as hub, torch
print([name for name in dir(hub) if "melhubert" in name])
upstream = hub.melhubert_local(ckpt=sys.argv[1], feature_stats="librispeech-360h")
print(upstream([torch.randn(16000)])["last_hidden_state"].shape)
"""
    out = run(environment, "python", "-c", code, reference / "tiny-20ms.ckpt", cwd=tmp_path)
    assert "melhubert_20ms_960h_stage2" in out
    assert "[1, 49, 48]" in out
    assert "melhubert" in run(environment, "melhubert", "--help", cwd=tmp_path)
    out = run(environment, "melhubert", "info", reference / "tiny-20ms.ckpt", cwd=tmp_path)
    assert "20 ms" in out


def test_uninstalling_leaves_nothing(environment):
    (environment[1] / PARENT).unlink()  # where pip would find another copy
    pip = [sys.executable, "-m", "pip", "--python", str(environment[0] / "bin/python")]
    subprocess.run([*pip, "uninstall", "-q", "-y", "s3prl-melhubert"], check=True)
    assert not list(environment[1].glob("s3prl_melhubert*"))
