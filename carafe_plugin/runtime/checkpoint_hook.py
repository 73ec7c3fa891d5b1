# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that a kill at any moment cannot spoil."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import BaseStorageBackend, LocalBackend, get_file_backend, register_backend
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .random_state import ExactResumeHook

_PARTIAL = '.{}.partial'


@register_backend('carafe_atomic')
class AtomicLocalBackend(LocalBackend):
    """Local files that are there whole or not at all."""

    def __init__(self) -> None:
        self._held: list[tuple[str, int]] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write beside the target, wait for the disk, then take the target's name."""
        target = Path(filepath)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(_PARTIAL.format(target.name))
        with open(partial, 'wb') as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, must survive a power cut
        finally:
            os.close(folder)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file, or note it for the end of :meth:`removing_last`."""
        if self._held is None:
            super().remove(filepath)
        else:
            self._held.append((str(filepath), os.stat(filepath).st_ino))

    @contextmanager
    def removing_last(self) -> Iterator[None]:
        """Put removals off until the block is done; a file that it wrote anew stays, and all if it fails."""
        self._held = []
        try:
            yield
            held = self._held
        finally:
            self._held = None
        for filepath, inode in held:
            if os.stat(filepath).st_ino == inode:
                super().remove(filepath)


@HOOKS.register_module()
class AtomicCheckpointHook(ExactResumeHook):
    """mmengine's ``CheckpointHook``, whose run can be resumed after a kill at any moment, and goes on alike.

    Each file is written under another name and renamed when it is complete, ``last_checkpoint`` included;
    what ``max_keep_ckpts`` and ``save_best`` discard goes when its successor is in place. This holds for
    local folders; on a remote store files are written as mmengine's hook does.
    """

    file_backend: BaseStorageBackend

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if type(self.file_backend) is LocalBackend:
            self.backend_args = dict(backend='carafe_atomic')
            self.file_backend = get_file_backend(backend_args=self.backend_args)
            if is_main_process():
                for folder in {Path(self.out_dir), Path(runner.work_dir)}:
                    for partial in folder.glob(_PARTIAL.format('*')):
                        partial.unlink()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if not isinstance(self.file_backend, AtomicLocalBackend):
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        # Same steps as in the parent class, in another order: save, point to it, then discard.
        outdated = None
        # A new best score saves the same step a second time.
        if self.max_keep_ckpts > 0 and not (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.keep_ckpt_ids.popleft()
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        self.file_backend.put(self.last_ckpt.encode(), Path(runner.work_dir, 'last_checkpoint'))
        if outdated is not None:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not isinstance(self.file_backend, AtomicLocalBackend):
            super()._save_best_checkpoint(runner, metrics)
            return
        with self.file_backend.removing_last():
            super()._save_best_checkpoint(runner, metrics)
