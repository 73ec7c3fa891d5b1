# SPDX-License-Identifier: Apache-2.0
"""The CUDA library: ``python ops/build_cuda.py`` compiles its kernels and tells what each one takes.

The kernels include no torch header, so that their objects serve every torch. They are kept by the hash of
what they are made of, below ``$XDG_CACHE_HOME/carafe-plugin`` (``~/.cache``), ptxas' report beside them.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent
KERNELS = sorted((ROOT / 'cuda').glob('*.cu'))
HOST = (ROOT / 'host.cpp', ROOT / 'cuda' / 'host.cpp', ROOT / 'cuda' / 'select.cpp')
# Code for 8.0 and 8.6 runs on every device of compute capability 8, and so on; PTX for what comes after.
TARGETS = ('7.5', '8.0', '8.6', '9.0', '10.0', '12.0+PTX')
HIDDEN = ('-Xcompiler', '-fPIC,-fvisibility=hidden,-fvisibility-inlines-hidden')
COMMON = ('-std=c++17', '-O3', *HIDDEN)


def nvcc() -> str | None:
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH') or '/usr/local/cuda'
    return shutil.which('nvcc') or shutil.which('nvcc', path=str(Path(home, 'bin')))


def why_not(torch_cuda: str | None) -> str | None:
    """Why no CUDA library is to be built for a torch with this CUDA, or None."""
    wish = os.environ.get('CARAFE_CUDA')
    if wish == '0':
        return 'CARAFE_CUDA=0'
    if nvcc() is None:
        return 'nvcc is not found'
    if torch_cuda is None and wish != '1':
        return 'torch is a CPU build (CARAFE_CUDA=1 compiles all the same)'
    return None


def targets() -> list[str]:
    """nvcc's arguments for ``TORCH_CUDA_ARCH_LIST``, or for every target that this nvcc knows."""
    listed = os.environ.get('TORCH_CUDA_ARCH_LIST')
    wanted = re.split(r'[;,\s]+', listed.strip()) if listed else TARGETS
    known = subprocess.run([nvcc(), '--list-gpu-code'], capture_output=True, text=True, check=True).stdout
    flags = []
    for target in wanted:
        parts = re.fullmatch(r'(\d+)\.(\d[a-f]?)(\+PTX)?', target)
        if parts is None:
            raise ValueError(f'TORCH_CUDA_ARCH_LIST must hold numbers such as 8.0 or 9.0+PTX, got {target!r}')
        number = parts[1] + parts[2]
        if listed or f'sm_{number}' in known.split():
            flags.append(f'-gencode=arch=compute_{number},code=sm_{number}')
            if parts[3]:
                flags.append(f'-gencode=arch=compute_{number},code=compute_{number}')
    return flags


def compile_kernels() -> Path:
    """The folder with an object and a ptxas report (``.log``) for each file of kernels."""
    flags = [*COMMON, '-Xptxas', '-v', *targets()]
    version = subprocess.run([nvcc(), '--version'], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256(repr((flags, version)).encode())
    for path in (*KERNELS, *headers()):
        digest.update(path.read_bytes())
    with made_once(f'cuda-{digest.hexdigest()[:20]}') as (kept, whole):
        if whole is None:
            return kept
        count = len(flags) - len(COMMON) - 2
        print(f'carafe_plugin: compiling the CUDA kernels for {count} targets', flush=True)
        whole.mkdir()

        def compile_one(source):
            done = _run([nvcc(), *flags, '-c', str(source), '-o', str(whole / f'{source.stem}.o')])
            (whole / f'{source.stem}.log').write_text(done.stderr)

        with ThreadPoolExecutor(min(len(KERNELS), os.cpu_count() or 1)) as pool:
            list(pool.map(compile_one, KERNELS))
    return kept


def headers() -> list[Path]:
    return sorted([*ROOT.glob('*.h'), *ROOT.glob('cuda/*.h'), *ROOT.glob('cuda/*.cuh')])


def sources_hash() -> str:
    """Of all that the CUDA library is made of: what a GPU has proven, it has proven of these sources."""
    digest = hashlib.sha256()
    for path in sorted([*KERNELS, *HOST, *headers()]):
        digest.update(f'{path.relative_to(ROOT).as_posix()}\n'.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def stamp() -> str:
    """C++ that puts the hash into a library; carafe_plugin/ops/_native.py reads it, where these are not."""
    visible = '__attribute__((visibility("default")))'
    return f'extern "C" {visible} const char carafe_cuda_sources[] = "{sources_hash()}";\n'


@contextlib.contextmanager
def made_once(name: str):
    """A place in the cache, and where to make it: None where it is there, or another process just made it."""
    import fcntl  # not on Windows, where setup.py imports this file as well

    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'carafe-plugin'
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / name
    with open(cache / f'{name.partition("-")[0]}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept.exists():
            yield kept, None
            return
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            yield kept, Path(folder, name)
            Path(folder, name).rename(kept)  # whole, or not at all


def build(target: Path, folder: Path, torch_root: Path, torch_target: str) -> None:
    """Link the library ``target``; ``folder`` holds what this torch alone can use."""
    kernels = compile_kernels()
    folder.mkdir(parents=True, exist_ok=True)
    defines = (f'-DTORCH_TARGET_VERSION={torch_target}', '-DUSE_CUDA', '-DCARAFE_DISPATCH_KEY=CUDA')
    sources = folder / 'sources.cpp'
    sources.write_text(stamp())
    objects = []
    for source in (*HOST, sources):
        objects.append(str(folder / f'{source.parent.name}_{source.stem}.o'))
        include = ('-isystem', str(torch_root / 'include'))
        _run([nvcc(), *COMMON, *defines, *include, '-c', str(source), '-o', objects[-1]])
    # libtorch brings libtorch_cuda along where it was built with CUDA. The runtime is linked in and hidden.
    libraries = (f'-L{torch_root / "lib"}', '-Xlinker', '--no-as-needed', '-ltorch', '-ltorch_cpu')
    hide = ('-Xlinker', '--exclude-libs=ALL')
    objects += map(str, sorted(kernels.glob('*.o')))
    _run([nvcc(), '-shared', '-cudart', 'static', *objects, *libraries, *hide, '-o', str(target)])


def _run(command: list[str]) -> subprocess.CompletedProcess:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} failed:\n{done.stdout}{done.stderr}')
    return done


def report(folder: Path) -> list[dict]:
    """What ptxas said: kernel, template arguments, target, registers, spilled bytes (stores and loads)."""
    entry = re.compile(
        r"Compiling entry function '(\S+)' for '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r'(\d+) bytes spill loads.*?Used (\d+) registers',
        re.DOTALL,
    )
    names = dict(f='float', d='double', t='16 bits', D0='float', D1='double', D2='float16', D3='bfloat16')
    rows = []
    for log in sorted(folder.glob('*.log')):
        for symbol, target, stack, stores, loads, registers in entry.findall(log.read_text()):
            name, arguments = re.search(r'\d+([a-z_]+_kernel)I(\w+?)EEv', symbol + 'I_EEv').groups()
            arguments = re.sub(r'N\w*?5ShapeI', '', re.sub(r'LN\w*?5DtypeE(\d)E', r'D\1', arguments))
            values = re.findall(r'Li(\d+)E|(D\d|[fdt])', arguments + 'E')
            rows.append(
                dict(
                    kernel=name,
                    arguments=', '.join(n or names[t] for n, t in values),
                    target=target,
                    registers=int(registers),
                    stack=int(stack),
                    spills=int(stores) + int(loads),
                )
            )
    return rows


def main() -> None:
    if nvcc() is None:
        sys.exit('nvcc is not found')
    rows = report(compile_kernels())
    found = sorted({row['target'] for row in rows}, key=lambda target: int(re.sub(r'\D', '', target)))
    print(f'| kernel | {" | ".join(found)} |\n|---|{"---|" * len(found)}')
    for key in dict.fromkeys((row['kernel'], row['arguments']) for row in rows):
        cells = []
        for target in found:
            row = next(r for r in rows if (r['kernel'], r['arguments'], r['target']) == (*key, target))
            cells.append(f'{row["registers"]}' + (f' ({row["spills"]} B spilled)' if row['spills'] else ''))
        print(f'| {key[0]}<{key[1]}> | {" | ".join(cells)} |')


if __name__ == '__main__':
    main()
