"""The two things that pyproject.toml cannot say: where the packages lie, and the .pth file.

s3prl's users look for folders called `upstream_expert`, `pretrain` and `downstream_recipes`; Python's
users must not find a top-level package called `pretrain` in their site-packages. So the folders stand
at the top of the checkout and are installed inside `s3prl_melhubert`.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = ("upstream_expert", "pretrain", "downstream_recipes")
PTH = "s3prl_melhubert.pth"

package_dir = {"s3prl_melhubert": "s3prl_melhubert"}
packages = ["s3prl_melhubert"] + [f"s3prl_melhubert.{name}" for name in find_packages("s3prl_melhubert")]
for folder in FOLDERS:
    package_dir[f"s3prl_melhubert.{folder}"] = folder
    packages.append(f"s3prl_melhubert.{folder}")
    packages += [f"s3prl_melhubert.{folder}.{name}" for name in find_packages(folder)]


class BuildPyWithPth(build_py):
    """Also put the .pth file, which announces the package to s3prl, into the root of the wheel."""

    def _pth_target(self) -> Path:
        # In editable mode nothing is copied to build_lib; what lands in the install command's
        # library folder goes into the (otherwise nearly empty) editable wheel.
        root = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        return Path(root) / PTH

    def run(self):
        super().run()
        target = self._pth_target()
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(PTH, str(target))

    def get_outputs(self, include_bytecode=True):
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, str(self._pth_target())]


setup(
    packages=packages,
    package_dir=package_dir,
    # Every data file that a package holds: settings, statistics, lists of phones, letters and words,
    # and the marker for type checkers.
    package_data={"": ["*.yaml", "*.txt", "*.dict", "py.typed"]},
    cmdclass={"build_py": BuildPyWithPth},
)
