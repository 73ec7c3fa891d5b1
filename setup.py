# SPDX-License-Identifier: Apache-2.0
"""The build steps that pyproject.toml, where all else stands, cannot express."""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / 'ops'))

from build_native import native_build  # noqa: E402

MIM_ENTRIES = ('configs', 'tools', 'model-index.yml')


class BuildPyWithMim(build_py):
    """Put configs, tools and the model index under ``carafe_plugin/.mim``, OpenMMLab's place.

    A wheel gets copies; an editable install gets links, so that edited configs need no reinstall.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            self._fill(ROOT / 'carafe_plugin' / '.mim', self._link)
        else:
            self._fill(Path(self.build_lib) / 'carafe_plugin' / '.mim', self._copy)

    def _fill(self, mim: Path, place) -> None:
        # What an earlier build left must not travel.
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for entry in MIM_ENTRIES:
            place(ROOT / entry, mim / entry)

    @staticmethod
    def _link(source: Path, target: Path) -> None:
        target.symlink_to(os.path.relpath(source, target.parent))

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy2(source, target)


native = native_build()
setup(cmdclass={'build_py': BuildPyWithMim, **native.pop('cmdclass', {})}, **native)
