# SPDX-License-Identifier: Apache-2.0
"""How the native libraries are built; setup.py calls :func:`native_build` and nothing else.

Every instruction set has objects of its own, chosen at run time: never ``-march=native``, so that a wheel
runs wherever its platform does. Where something is missing the install goes on without the library,
says so, and ``python -m carafe_plugin.env`` repeats why.
"""

import functools
import importlib.metadata
import os
import platform
import re
import shlex
import sys
from pathlib import Path

import build_cuda
from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# The oldest torch that is served, and the oldest whose stable ABI has what binding.h calls.
OLDEST_TORCH, STABLE_TORCH = (2, 1), (2, 10)
TORCH_TARGET = '0x020a000000000000'  # STABLE_TORCH, one byte a part

COMMON = ['-std=c++17', '-fPIC', '-fvisibility=hidden', '-fvisibility-inlines-hidden', '-Wall', '-g0']
# -O2 with the vectoriser at full strength: the conversion loops need it, and -O3 gains nothing more.
KERNEL = [
    '-O2',
    '-ftree-vectorize',
    '-fwrapv',  # Python's own flags often have it; GCC 12 without it is 1.6 times slower in reassemble_last.h
    '-ffp-contract=fast',
    '-fno-math-errno',
    '-fno-trapping-math',
    '-Wno-psabi',  # vector types never cross an object
]
# ops/cpu/select.cpp chooses among them.
INSTRUCTION_SETS = {'baseline': []}
if platform.machine() in ('x86_64', 'AMD64'):
    INSTRUCTION_SETS['avx2'] = ['-mavx2', '-mfma']
    INSTRUCTION_SETS['avx512'] = [
        *('-mavx512f', '-mavx512vl', '-mavx512bw', '-mavx512dq', '-mfma'),
        '-mprefer-vector-width=512',
    ]
    INSTRUCTION_SETS['avx512_bf16'] = [*INSTRUCTION_SETS['avx512'], '-mavx512bf16']


SELECT, KERNELS = 'ops/cpu/select.cpp', 'ops/cpu/kernels.cpp'
CUDA = 'carafe_plugin._C_cuda'
OPENVINO = 'carafe_plugin._C_openvino'
# By a library's kind, as its name says it: what demands it, and what is there without it.
KINDS = {
    'cpu': ('CARAFE_NATIVE', 'the plain PyTorch operators will serve'),
    'cuda': ('CARAFE_CUDA', 'the plain PyTorch operators will serve'),
    'openvino': ('CARAFE_OPENVINO', 'OpenVINO will not know the operators'),
}


def native_build() -> dict:
    """Keyword arguments for ``setuptools.setup``."""
    reason = _why_not()
    if reason:
        if os.environ.get('CARAFE_OPENVINO') == '1':
            raise RuntimeError(f'CARAFE_OPENVINO=1 needs the native library: {reason}')
        _say(f'no native library: {reason}', 'cpu')
        return {}
    version = _torch_version()
    # carafe_plugin/ops/_native.py looks for these names.
    suffix = '' if version >= STABLE_TORCH else f'_torch{version[0]}_{version[1]}'
    cpu = Extension(
        f'carafe_plugin._C_cpu{suffix}',
        sources=['ops/schema.cpp', 'ops/host.cpp', 'ops/cpu/host.cpp', SELECT, KERNELS],
        depends=[str(path) for path in ROOT.rglob('*.h')],
    )
    # Listed in any case, so that a library from an earlier build does not stay where none is to be built.
    cuda = Extension(CUDA, sources=[str(path.relative_to(ROOT.parent)) for path in build_cuda.KERNELS])
    libraries = [cpu, cuda]
    if openvino := find_openvino():
        # OpenVINO's libraries promise nothing from one version to the next.
        name = f'{OPENVINO}_{re.sub(r"[^0-9a-z]", "_", openvino.version)}'
        libraries.append(Extension(name, sources=['ops/cpu/openvino.cpp']))
    return dict(ext_modules=libraries, cmdclass=dict(build_ext=BuildNative, bdist_wheel=AnyPythonWheel))


def find_openvino() -> importlib.metadata.Distribution | None:
    """The installed openvino to build the extension for, or None."""
    wish = os.environ.get('CARAFE_OPENVINO')
    if wish == '0' or sys.platform != 'linux':
        return None
    try:
        return importlib.metadata.distribution('openvino')
    except importlib.metadata.PackageNotFoundError:
        if wish == '1':
            raise RuntimeError('CARAFE_OPENVINO=1, and openvino is not installed') from None
        return None


def _why_not() -> str | None:
    if os.environ.get('CARAFE_NATIVE') == '0':
        return 'CARAFE_NATIVE=0'
    if sys.platform == 'win32':
        return 'not ported to Windows, whose compiler has no vector extensions'
    try:
        import torch
    except ImportError:
        return 'torch is not installed here; install it first and pass --no-build-isolation'
    if _torch_version() < OLDEST_TORCH:
        return f'torch {torch.__version__} is older than {".".join(map(str, OLDEST_TORCH))}'
    return None


def _torch_version() -> tuple[int, int]:
    import torch

    major, minor = torch.__version__.split('.')[:2]
    return int(major), int(minor)


def _binding(torch_root: Path) -> tuple[list[str], list[str]]:
    """Flags that compile and that link the hosts: see binding.h."""
    include = [f'-isystem{torch_root / "include"}']
    if _torch_version() >= STABLE_TORCH:
        return [f'-DTORCH_TARGET_VERSION={TORCH_TARGET}', *include], ['-ltorch_cpu']
    import torch

    abi = f'-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}'
    # parallel_for is a template on OpenMP's pragmas. Linked without -fopenmp, their calls reach the runtime
    # that torch brings along: a second one would have threads of its own. (GCC's calls; those of clang are
    # others, and such a library does not load. macOS gets one thread.)
    openmp = [] if sys.platform == 'darwin' else ['-fopenmp']
    return ['-DCARAFE_ATEN', abi, *openmp, *include], ['-ltorch_cpu', '-lc10']


def _say(message: str, kind: str) -> None:
    print(f'carafe_plugin: {message}; {KINDS[kind][1]}', file=sys.stderr)


class BuildNative(build_ext):
    """Compiles each source with its own flags, the kernels once for each instruction set."""

    def get_ext_filename(self, fullname):  # no Python in the name: no Python in the library
        return os.path.join(*fullname.split('.')) + '.so'

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        kind = target.stem.split('_')[2]
        switch = KINDS[kind][0]
        try:
            getattr(self, f'_build_{kind}')(ext, target)
        except Exception as error:  # no compiler, or one that is too old
            if os.environ.get(switch) == '1':
                raise RuntimeError(f'{target.name} did not build; {switch}=0 installs without it') from error
            _say(f'{target.name} did not build ({error})', kind)
            target.unlink(missing_ok=True)

    def copy_extensions_to_source(self):
        # Nor may that of a torch or an OpenVINO which is no longer there.
        folder = Path(self.get_ext_fullpath(CUDA)).parent
        for old in (*folder.glob('_C_cpu_torch*.so'), *folder.glob('_C_openvino*.so')):
            old.unlink()
        # A build that failed left nothing to copy, and an older library must not stay in its place.
        for ext in list(self.extensions):
            if not Path(self.build_lib, self.get_ext_filename(ext.name)).exists():
                self.extensions.remove(ext)
                Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        super().copy_extensions_to_source()

    @functools.cached_property
    def _extra(self) -> list[str]:
        return shlex.split(os.environ.get('CARAFE_CXXFLAGS', ''))

    @functools.cached_property
    def _kernels(self) -> list[str]:
        """The objects that know neither torch nor OpenVINO."""
        objects = self._compile(SELECT, 'host', ['-O2', *COMMON, *self._extra])
        for isa, flags in INSTRUCTION_SETS.items():
            flags = [*COMMON, *KERNEL, *flags, f'-DCARAFE_ISA={isa}', *self._extra]
            objects += self._compile(KERNELS, isa, flags)
        return objects

    def _build_cpu(self, ext, target):
        import torch

        torch_root = Path(torch.__file__).parent
        host, libraries = _binding(torch_root)
        flags = ['-O2', *COMMON, *host, '-DCARAFE_DISPATCH_KEY=CPU', *self._extra]
        objects = list(self._kernels)
        for source in ext.sources:
            if source not in (SELECT, KERNELS):
                objects += self._compile(source, 'host', flags)
        if sys.platform == 'darwin':
            link = ['-undefined', 'dynamic_lookup']
        else:
            link = ['-Wl,--no-as-needed', f'-L{torch_root / "lib"}', *libraries]
        self._link(objects, target, link)

    def _build_openvino(self, ext, target):
        openvino = Path(find_openvino().locate_file('openvino'))
        # As its CMake files say: the kind of its threads, and of the C++ library's strings.
        targets = (openvino / 'cmake' / 'OpenVINOTargets.cmake').read_text()
        defines = set(re.findall(r'\b(?:OV_THREAD|_GLIBCXX_USE_CXX11_ABI)=\w+', targets))
        here = [f'-isystem{openvino / "include"}', *(f'-D{define}' for define in sorted(defines))]
        flags = ['-O2', *COMMON, *here, *self._extra]
        objects = self._compile(ext.sources[0], 'host', flags)
        # They are in the process by the time that they load this one.
        libraries = [*openvino.glob('libs/libopenvino.so.*'), *openvino.glob('libs/libtbb.so.*')]
        self._link([*objects, *self._kernels], target, map(str, libraries))

    def _build_cuda(self, ext, target):
        import torch

        reason = build_cuda.why_not(torch.version.cuda)
        if _torch_version() < STABLE_TORCH:
            reason = f'torch {torch.__version__} is older than {".".join(map(str, STABLE_TORCH))}'
        if reason is None:
            folder = Path(self.build_temp, 'cuda')
            build_cuda.build(target, folder, Path(torch.__file__).parent, TORCH_TARGET)
        else:
            target.unlink(missing_ok=True)
            print(f'carafe_plugin: no CUDA library: {reason}', file=sys.stderr)

    def _compile(self, source, folder, flags):
        return self.compiler.compile(
            [source], output_dir=os.path.join(self.build_temp, folder), extra_postargs=flags, depends=[]
        )

    def _link(self, objects, target, flags):
        self.compiler.link_shared_object(
            objects, str(target), extra_postargs=[*flags, *self._extra], target_lang='c++'
        )


class AnyPythonWheel(bdist_wheel):
    """One wheel for every Python 3 on a platform."""

    def get_tag(self):
        return 'py3', 'none', super().get_tag()[2]
