# SPDX-License-Identifier: Apache-2.0
"""The demonstration behind `make demo`: data, training, evaluation and pictures, on two CPU cores.

Each step is one of the tools, called as a user would call it. A run that was interrupted goes on where it
stopped; remove the work_dir to start anew.
"""

import argparse
import contextlib
import hashlib
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CONFIG = 'configs/quickstart/mask-rcnn_r18_fpn-carafe_head-carafe_shapes.py'
DATA = Path('data/shapes')
TRUTH = DATA / 'annotations' / 'instances_val.json'
COLUMNS = ('AP', 'AP50', 'AP75', 'AP small', 'AP medium', 'AP large')  # COCOeval's first six figures
SCORE_THR = 0.3


def run(*command: object) -> None:
    """Call a tool, its command shown first; leave with its exit code where it fails."""
    arguments = [str(argument) for argument in command]
    print(f'\n$ python {shlex.join(arguments)}', flush=True)
    code = subprocess.run([sys.executable, *arguments], check=False).returncode
    if code:
        sys.exit(code)


def claim(work_dir: Path, config: str | None = None) -> None:
    """Make sure that a run found in ``work_dir`` is one of this config and data; else leave."""
    stamp = hashlib.sha256(
        Path(config or CONFIG).read_bytes() + (DATA / 'shapes.json').read_bytes()
    ).hexdigest()
    note = work_dir / 'quickstart.sha256'
    if work_dir.exists() and any(work_dir.iterdir()) and (not note.exists() or note.read_text() != stamp):
        sys.exit(f'{work_dir} holds something else than a run of this config and data: move it away first')
    work_dir.mkdir(parents=True, exist_ok=True)
    note.write_text(stamp)


def evaluate(results: Path, iou_type: str) -> COCOeval:
    """Score one COCO result file; the figures are in ``stats``."""
    detections = json.loads(results.read_text())
    if iou_type == 'segm':
        for detection in detections:
            del detection['bbox']  # COCOeval would sort the masks into sizes by their boxes
    with contextlib.redirect_stdout(None):  # pycocotools prints
        truth, found = COCO(TRUTH), COCO()
        if detections:
            found = truth.loadRes(detections)
        else:  # which loadRes does not take
            found.dataset = dict(truth.dataset, annotations=[])
            found.createIndex()
        evaluation = COCOeval(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def ious_by_image(evaluation: COCOeval) -> dict[int, list[float]]:
    """For each image that has objects (crowds left out) their best IoUs with a detection of their class.

    It is 0 where there is none; detections below a score of SCORE_THR do not count.
    """
    best: dict[int, list[float]] = {}
    for key, ious in evaluation.ious.items():
        kept = sum(detection['score'] >= SCORE_THR for detection in evaluation._dts[key])
        for index, truth in enumerate(evaluation._gts[key]):
            if not truth['iscrowd']:  # rows are sorted by score
                best.setdefault(key[0], []).append(ious[:kept, index].max() if kept else 0.0)
    return best


def mean_mask_iou(evaluation: COCOeval) -> float:
    """Mean over all objects of :func:`ious_by_image`."""
    return float(np.mean([iou for ious in ious_by_image(evaluation).values() for iou in ious]))


def shown(evaluation: COCOeval) -> dict[str, tuple[Path, float]]:
    """The images to draw, no one's choice: places in the order of their mean mask IoU, with that IoU."""
    means = {image: float(np.mean(ious)) for image, ious in ious_by_image(evaluation).items()}
    order = sorted(means, key=lambda image: (-means[image], image))
    last = len(order) - 1
    places = {'best': 0, 'upper quartile': last // 4, 'median': last // 2, 'worst': last}
    files = {name: evaluation.cocoGt.imgs[order[place]]['file_name'] for name, place in places.items()}
    return {name: (DATA / 'val' / files[name], means[order[place]]) for name, place in places.items()}


def table(results: Path) -> str:
    """Figures of the box and mask results as a small table in percent."""
    lines = ['      ' + ''.join(f'{column:>11}' for column in (*COLUMNS, 'mean IoU'))]
    for name, iou_type in (('box', 'bbox'), ('mask', 'segm')):
        evaluation = evaluate(results.with_name(f'{results.name}.{iou_type}.json'), iou_type)
        figures = [*evaluation.stats[:6], mean_mask_iou(evaluation)]
        lines.append(f'{name:<6}' + ''.join(f'{100 * figure:>11.1f}' for figure in figures))
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    work_dir = parser.parse_args().work_dir
    start = time.monotonic()

    run('tools/make_shapes.py', DATA)
    claim(work_dir)
    run('tools/train.py', CONFIG, '--work-dir', work_dir, '--resume')
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    results = work_dir / 'results'
    options = ['--cfg-options', f'test_evaluator.outfile_prefix={results}']
    run('tools/test.py', CONFIG, checkpoint, '--work-dir', work_dir / 'test', *options)
    where = ['--config', CONFIG, '--checkpoint', checkpoint, '--out', work_dir]
    pictures = shown(evaluate(results.with_name('results.segm.json'), 'segm'))
    show = ['--ground-truth', TRUTH, '--grid', '--score-thr', 0.5]
    run('tools/demo.py', *(file for file, _ in pictures.values()), *where, *show)
    run('tools/plot_logs.py', work_dir, '--out', work_dir / 'curves.png')

    print('\nMask R-CNN (ResNet-18) with CARAFE in FPN and mask head on the held-out images, in %:')
    print(table(results))
    print(f'\n{time.monotonic() - start:.0f} s in all. Look at:')
    rows = ', '.join(f'{name} {100 * iou:.0f}' for name, (_, iou) in pictures.items())
    print(f'  {work_dir}/predictions.png   image, ground truth, prediction; rows by mean mask IoU: {rows}')
    print(f'  {work_dir}/curves.png        loss and AP along the training')
    print('Next: compare upsamplers with tools/compare.py, or train on COCO: README.md, docs/coco.md')


if __name__ == '__main__':
    main()
