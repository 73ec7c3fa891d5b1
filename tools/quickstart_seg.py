# SPDX-License-Identifier: Apache-2.0
"""The demonstration behind `make demo-seg`: semantic segmentation of the shapes, on two CPU cores.

Each step is one of the tools, called as a user would call it. A run that was interrupted goes on where it
stopped; remove the work_dir to start anew.
"""

import argparse
import json
import time
from pathlib import Path

from quickstart import DATA, claim, run

CONFIG = 'configs/quickstart/upernet_r18_carafe_shapes.py'
ADE = DATA / 'ade'


def figures(test_dir: Path) -> dict[str, float]:
    """The metrics of the latest test in a work_dir."""
    latest = max(test_dir.glob('*/*.json'), key=lambda file: file.parent.name)
    return json.loads(latest.read_text().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo_seg'))
    work_dir = parser.parse_args().work_dir
    start = time.monotonic()

    run('tools/make_shapes.py', DATA)
    claim(work_dir, CONFIG)
    run('tools/train.py', CONFIG, '--work-dir', work_dir, '--resume')
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    run('tools/test.py', CONFIG, checkpoint, '--work-dir', work_dir / 'test')
    where = ['--config', CONFIG, '--checkpoint', checkpoint, '--out', work_dir]
    truth = ADE / 'annotations' / 'validation'
    run(
        *('tools/demo.py', ADE / 'images' / 'validation', *where),
        *('--ground-truth', truth, '--grid', '--max-images', 4),
    )
    run('tools/plot_logs.py', work_dir, '--out', work_dir / 'curves.png', '--keys', 'loss', 'mIoU', 'mBIoU')

    scores = figures(work_dir / 'test')
    print('\nUperNet (ResNet-18) with CARAFE in ppm, fpn and fusion on the held-out images, in %:')
    print(''.join(f'{name:>22}' for name in ('mIoU', 'boundary IoU', 'pixel accuracy')))
    print(''.join(f'{scores[key]:>22.1f}' for key in ('mIoU', 'mBIoU', 'aAcc')))
    print(f'\n{time.monotonic() - start:.0f} s in all. Look at:')
    print(f'  {work_dir}/predictions.png   image, ground truth, prediction')
    print(f'  {work_dir}/curves.png        loss, mIoU and boundary IoU along the training')
    print('Next: ADE20K and the other data sets: docs/segmentation.md')


if __name__ == '__main__':
    main()
