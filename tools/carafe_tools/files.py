# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are there as a whole or not at all."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under another name, then give it its own."""
    part = path.with_name(path.name + '.part')
    part.write_text(text)
    os.replace(part, path)


def generate(out: str | Path, record: str, wanted: dict, fill: Callable[[Path], None]) -> bool:
    """Fill a folder with generated data, or find it there already.

    Args:
        out: the folder.
        record: name of the file in it that holds the parameters it was made with.
        wanted: these parameters, as JSON gives them back.
        fill: writes the data into the empty folder that it gets.

    Returns:
        True where it was generated, False where it was there.

    Raises:
        UserError: ``out`` holds anything else than this very data.
    """
    from carafe_plugin.runtime.errors import UserError  # needs mmengine

    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        found = json.loads((out / record).read_text()) if (out / record).is_file() else None
        if found == wanted:
            return False
        holds = f'holds the data of {found}' if found else f'exists and has no {record}'
        raise UserError(f'{out} {holds}, wanted {wanted}: remove it or choose another folder')
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{out.name}-', dir=out.parent) as scratch:
        made = Path(scratch, 'data')
        made.mkdir()
        fill(made)
        (made / record).write_text(json.dumps(wanted))
        made.rename(out)
    return True
