# SPDX-License-Identifier: Apache-2.0
"""Checkpoints read under torch's ``weights_only``, and a resume that finds the latest whole one."""

import pickle
import re
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from carafe_plugin.ops.compat import VERSION

from .errors import UserError, notice

# How the words of the unpickler, and ours below, name what it does not let in.
_FOREIGN = re.compile(r"(?<=GLOBAL )\S+|(?<=but got <class ')[\w.]+|attribute '.*' of .*")
_STATISTICS = ('min', 'max', 'mean', 'current')
# Before torch 2.6 it cannot be told to let more in: files are trusted, as mmengine trusts them there.
_WEIGHTS_ONLY = VERSION >= (2, 6)


class DamagedCheckpointError(UserError):
    """A checkpoint file that is cut off or otherwise unreadable."""


def _history_buffer_statistic(owner: object, name: str) -> object:
    """Stand in for ``getattr`` while a checkpoint is read; knows HistoryBuffer's own statistics alone."""
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'not let in: attribute {name!r} of {owner!r}')


def enable_safe_loading() -> None:
    """Let ``torch.load`` read mmengine's checkpoints without giving up ``weights_only``.

    They hold the loss curves as ``HistoryBuffer`` objects: numpy arrays, and references to four methods that
    pickle writes as ``getattr`` calls. Nothing else is let in; a checkpoint with another class stays refused.
    Below torch 2.6, where files of any content load by default, this changes nothing.
    """
    if not _WEIGHTS_ONLY:
        return
    # numpy 1.26 has an empty _core.
    inner = np._core if int(np.__version__.partition('.')[0]) >= 2 else np.core  # type: ignore[attr-defined]
    multiarray = inner.multiarray
    # numpy 1 and numpy 2 write these two under different names.
    rebuilders = [
        (rebuild, f'numpy.{core}.multiarray.{rebuild.__name__}')
        for rebuild in (multiarray._reconstruct, multiarray.scalar)
        for core in ('core', '_core')
    ]
    # Numbers, booleans and text; not the object dtype.
    dtypes = {type(np.dtype(code)) for code in '?bhilqBHILQefdgFDGSU'}
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            (_history_buffer_statistic, 'builtins.getattr'),
            np.ndarray,
            np.dtype,
            *rebuilders,
            *dtypes,
        ]
    )


def read_checkpoint(path: str | Path) -> dict:
    """Open a local checkpoint, its tensors mapped into memory; with ``weights_only`` from torch 2.6 on.

    Raises:
        DamagedCheckpointError: the file is cut off or is no checkpoint.
        UserError: it does not exist, or holds a class that is not let in (named in the message).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'checkpoint {path} does not exist')
    with path.open('rb') as file:
        is_zip = file.read(4) == b'PK\x03\x04'  # what torch.save writes since 1.6, and all that can be mapped
    try:
        checkpoint = torch.load(str(path), map_location='cpu', weights_only=_WEIGHTS_ONLY, mmap=is_zip)
    except Exception as error:
        foreign = _FOREIGN.search(str(error))
        if isinstance(error, pickle.UnpicklingError) and foreign:
            raise UserError(
                f'checkpoint {path} is refused, it holds {foreign.group()}; if you trust its source, let it '
                'in by torch.serialization.add_safe_globals, in a module that custom_imports names'
            ) from error
        raise DamagedCheckpointError(f'checkpoint {path} is truncated or damaged') from error
    if not isinstance(checkpoint, dict):
        raise DamagedCheckpointError(f'checkpoint {path} holds a {type(checkpoint).__name__}, not a dict')
    return checkpoint


def find_resumable(*folders: Path) -> tuple[Path | None, list[str]]:
    """Find the latest checkpoint in the folders from which a run can go on.

    The file named by ``last_checkpoint`` comes first, then the others, newest first. ``best_*.pth`` have no
    optimizer and do not count.

    Returns:
        Its path, or None; and what was wrong with each one passed over.
    """
    candidates = []
    for folder in folders:
        pointer = folder / 'last_checkpoint'
        text = pointer.read_text().strip() if pointer.is_file() else ''
        if text:
            named = Path(text)
            # A work_dir that was moved still holds the file, under its old name.
            candidates += [named, folder / named.name]
            folders += (named.parent,)
    files = {file for folder in folders for file in folder.glob('*.pth')}
    candidates += sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True)

    complaints: list[str] = []
    for file in dict.fromkeys(candidates):
        if not file.is_file() or file.name.startswith('best_'):
            continue
        try:
            if {'meta', 'message_hub'} <= read_checkpoint(file).keys():
                return file, complaints
        except UserError as error:
            complaints.append(str(error))
    return None, complaints


def check_checkpoint(path: str, work_dir: str, option: str = '') -> dict | None:
    """Read the checkpoint that is to be loaded; None for one that is not a local file.

    Raises:
        UserError: it cannot be read; the message offers the latest good one nearby, after ``option``.
    """
    if '://' in path:
        return None
    try:
        return read_checkpoint(path)
    except UserError as error:
        good, _ = find_resumable(Path(work_dir), Path(path).parent)
        if good is None:
            raise
        raise UserError(f'{error}; the latest good one: {option} {good}') from error


def _latest(work_dir: str) -> str | None:
    found, complaints = find_resumable(Path(work_dir))
    if complaints and not found:
        raise UserError(f'{complaints[0]}; {work_dir} holds no good one')
    for complaint in complaints:
        notice(f'{complaint}: passed over')
    if found is None:
        notice(f'no checkpoint to resume from in {work_dir}: training starts anew')
        return None
    notice(f'resuming from {found}')
    return str(found)


def set_resume(cfg: Config, resume: str | None) -> None:
    """Enter what ``--resume`` asked for into the config, so that the Runner meets no surprise.

    Args:
        cfg: changed in place: ``resume`` and ``load_from``, and the random seed of the run that goes on
            where the config gives none (the order of the data depends on it).
        resume: a path; ``'auto'`` for the latest good checkpoint in ``work_dir``; None for what ``cfg`` says.

    Raises:
        UserError: the given checkpoint cannot be resumed from.
    """
    if resume is None and cfg.get('resume'):
        resume = cfg.get('load_from') or 'auto'
    if resume == 'auto':
        resume = _latest(cfg.work_dir)
    if resume is None:
        cfg.resume = False
        if cfg.get('load_from'):
            check_checkpoint(cfg.load_from, cfg.work_dir)
        return
    checkpoint = check_checkpoint(resume, cfg.work_dir, '--resume')
    cfg.resume, cfg.load_from = True, resume
    if checkpoint is None:
        return
    if not {'meta', 'message_hub'} <= checkpoint.keys():
        raise UserError(f'checkpoint {resume} holds weights alone: use --cfg-options load_from={resume}')
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') is None:
        cfg.randomness = dict(randomness, seed=checkpoint['meta'].get('seed'))
