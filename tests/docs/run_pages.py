# SPDX-License-Identifier: Apache-2.0
"""Runs the Python blocks of pages, each page in a process forked when the slow imports are done.

``python -m tests.docs.run_pages PAGE...`` in an empty folder. The blocks of a page share their names, as in a
reader's session. A block that names a file (``title="..."``) is written and imported; one that is a config is
loaded, and its model is built. Prints the blocks that failed and how many passed.
"""

import importlib
import os
import re
import sys
import time
import traceback
import warnings
from pathlib import Path

from .snippets import PAGES, ROOT, Block, blocks

CONFIG = re.compile(r'^(_base_|custom_imports|model) = ', re.MULTILINE)


def run_config(block: Block) -> None:
    """Load it as a file beside configs/, and build its model."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    file = Path(block.title or f'block_{block.line}.py')
    file.write_text(block.text)
    cfg = Config.fromfile(file)
    if 'type' in cfg.get('model', {}):
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            MODELS.build(cfg.model)


def run_block(block: Block, names: dict) -> None:
    if CONFIG.search(block.text):
        run_config(block)
        return
    if block.title:
        importlib.import_module(Path(block.title).stem)
        return
    # Line numbers of a traceback are those of the page.
    exec(compile('\n' * (block.line - 1) + block.text, block.page, 'exec'), names)


def run_page(page: str) -> int:
    names = {'__name__': '__main__'}
    folder = Path(page.replace('/', '_')).absolute()
    folder.mkdir()
    for name in ('configs', 'tools'):
        Path(folder, name).symlink_to(ROOT / name)
    for block in (block for each in PAGES for block in blocks(each) if block.title.endswith('.py')):
        Path(folder, block.title).write_text(block.text)  # a page may use the file of another one
    os.chdir(folder)
    sys.path.insert(0, '')
    start = time.process_time()
    for block in blocks(page):
        if block.language != 'python':
            continue
        try:
            run_block(block, names)
        except Exception:
            print(f'FAILED {block}\n{traceback.format_exc()}', flush=True)
            return 1
        print(f'passed {block}', flush=True)
    print(f'{page}: {time.process_time() - start:.1f} s of processor time', flush=True)
    return 0


def main() -> None:
    warnings.simplefilter('ignore')
    import mmdet.apis  # noqa: F401
    import mmseg.apis  # noqa: F401
    import torch

    import carafe_plugin  # noqa: F401

    torch.set_num_threads(1)
    codes = []
    for page in sys.argv[1:]:
        child = os.fork()
        if not child:
            code = 1
            try:
                code = run_page(page)
            finally:
                sys.stdout.flush()
                os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.exit(any(codes))


if __name__ == '__main__':
    main()
