# SPDX-License-Identifier: Apache-2.0
"""Stand in for the C++ compiler of one build, and parse only once what all its sources include.

    pch_compiler.py FOLDER HEADERS COMPILER ARGUMENT...

HEADERS are names as the sources write them, joined by commas; a source that includes one of them gets
all of them precompiled. GCC takes a precompiled header only with the very flags that it was made with and
else drops it without a word: so it is made from the flags of a real call, once for each set of flags, and
tried. Objects are compiled without debug information, which is most of their size.

What is not such a call, as the linker's or the question for a version, goes to COMPILER as it is, and so
does a source where the header does not take; FOLDER/notes.txt then says why. Standard library only.
"""

import fcntl
import hashlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

SOURCES = ('.cc', '.cpp', '.cxx')
# Options that name an output or say what this one source depends on: they differ from call to call.
OWN = ('-MF', '-MT', '-MQ', '-o')


def compiled_source(arguments: list) -> str:
    """Return the one C++ source that the call compiles, or nothing where it does something else."""
    sources = [argument for argument in arguments if argument.endswith(SOURCES) and argument[0] != '-']
    return sources[0] if '-c' in arguments and '-x' not in arguments and len(sources) == 1 else ''


def shared_flags(arguments: list, source: str) -> list:
    """Return the flags that decide whether a precompiled header fits."""
    flags = []
    rest = iter(arguments)
    for argument in rest:
        if argument in OWN:
            next(rest, None)
        elif argument not in ('-c', source) and not re.match('-M|-o.', argument):
            flags.append(argument)
    return flags


def opens_with(source: str, headers: list) -> bool:
    """Tell whether the source includes one of the headers, with nothing before it that could change them."""
    with open(source, errors='replace') as stream:
        for line in stream:
            directive = re.match(r'\s*#\s*(\w+)\s*["<]?([^">\s]*)', line)
            if directive and directive[1] != 'include':
                return False
            if directive and directive[2] in headers:
                return True
    return False


def run(command: list) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), stderr=subprocess.PIPE, errors='replace')


def fault_of(place: Path, headers: list, compiler: list, flags: list) -> str:
    """Precompile the headers in ``place`` and return why they will not serve: nothing, where they do."""
    header = place / 'pch.hpp'
    header.write_text(''.join(f'#include "{name}"\n' for name in headers))
    made = run([*compiler, *flags, '-x', 'c++-header', header, '-o', f'{header}.gch'])
    if made.returncode:
        errors = [line for line in made.stderr.splitlines() if 'error' in line]
        return f'it does not compile ({(errors or ["no reason given"])[0]})'
    trial = place / 'trial.cpp'
    trial.touch()
    tried = run([*compiler, '-include', header, *flags, '-H', '-c', trial, '-o', place / 'trial.o'])
    # -H marks what was read in precompiled form with an exclamation mark.
    taken = tried.returncode == 0 and f'! {header}.gch' in tried.stderr.splitlines()
    return '' if taken else 'the compiler does not use it'


def precompiled(folder: Path, headers: list, compiler: list, flags: list):
    """Return what to include, made by the first call with these flags; None where it does not take."""
    key = '\0'.join([os.getcwd(), *headers, '', *compiler, *flags])
    place = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    fault = place / 'fault'
    with open(place / 'lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not fault.exists():
            reason = fault_of(place, headers, compiler, flags)
            if reason:
                note(folder, f'no precompiled header, {reason}')
            # Last: a build that ends before leaves nothing that looks whole.
            fault.write_text(reason)
        return None if fault.read_text() else place / 'pch.hpp'


def note(folder: Path, text: str) -> None:
    """Say it where the caller's log is and where the set-up finds it: pip shows a log of failures only."""
    print(f'pch_compiler: {text}', file=sys.stderr)
    with open(folder / 'notes.txt', 'a') as stream:
        stream.write(f'{text}\n')


def main() -> int:
    """Compile or pass on; return the compiler's own exit status."""
    folder, headers, compiler = Path(sys.argv[1]).resolve(), sys.argv[2].split(','), shlex.split(sys.argv[3])
    arguments = sys.argv[4:]
    source = compiled_source(arguments)
    if source and os.path.exists(source):
        arguments.append('-g0')
        flags = shared_flags(arguments, source)
        header = opens_with(source, headers) and precompiled(folder, headers, compiler, flags)
        if header:
            done = run([*compiler, '-include', header, *arguments])
            if done.returncode == 0:
                sys.stderr.write(done.stderr)
                return 0
            # The messages of this one count: the source as it is, without anything of ours.
            status = subprocess.call([*compiler, *arguments])
            if status == 0:
                note(folder, f'{source} compiles only without the precompiled header')
            return status if status >= 0 else 128 - status
    os.execvp(compiler[0], [*compiler, *arguments])


if __name__ == '__main__':
    sys.exit(main())
