# SPDX-License-Identifier: Apache-2.0
"""Tiny data, tiny configs and processes for the tests of the runtime and of the tools."""

import importlib.util
import json
import multiprocessing
import os
import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
COCO_CONFIG = ROOT / 'configs' / 'coco' / 'mask-rcnn_r50_fpn-carafe_head-carafe_1x_coco.py'


def load_tool(name: str):
    """Import ``tools/NAME.py``, or a script given by its path, as a module."""
    path = ROOT / 'tools' / f'{name}.py' if name.isidentifier() else name
    spec = importlib.util.spec_from_file_location('tool_under_test', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_coco(folder: Path, images: int = 4, size: int = 64) -> Path:
    """Write images with two coloured rectangles each, and ``instances.json``; return the folder."""
    rng = np.random.default_rng(0)
    (folder / 'images').mkdir(parents=True)
    content = dict(images=[], annotations=[], categories=[dict(id=1, name='red'), dict(id=2, name='blue')])
    for image_id in range(images):
        canvas = rng.integers(0, 80, (size, size, 3), dtype=np.uint8)
        file_name = f'{image_id}.png'
        content['images'].append(dict(id=image_id, file_name=file_name, width=size, height=size))
        for category, colour in ((1, (0, 0, 255)), (2, (255, 0, 0))):
            x, y = map(int, rng.integers(0, size // 2, 2))
            w, h = map(int, rng.integers(size // 4, size // 2, 2))
            cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, -1)
            content['annotations'].append(
                dict(
                    id=len(content['annotations']) + 1,
                    image_id=image_id,
                    category_id=category,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )
        cv2.imwrite(str(folder / 'images' / file_name), canvas)
    (folder / 'instances.json').write_text(json.dumps(content))
    return folder


def write_detector_config(file: Path, data: Path) -> Path:
    """Write our CARAFE Mask R-CNN config, shrunk to train on ``data`` in seconds; return the file."""
    dataset = f"""
        data_root='{data}/', ann_file='instances.json', data_prefix=dict(img='images/'),
        metainfo=dict(classes=('red', 'blue')), pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(64, 64), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='PackDetInputs')]"""
    file.write_text(f"""
_base_ = '{COCO_CONFIG}'
model = dict(
    backbone=dict(depth=18, base_channels=8, stem_channels=8, init_cfg=None, frozen_stages=-1),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=2),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=2)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=50), rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=50), rcnn=dict(score_thr=0.0, max_per_img=5)))
train_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False, batch_sampler=None, dataset=dict({dataset}))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict({dataset}))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{data}/instances.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=1))
randomness = dict(seed=0)
""")
    return file


def process_context() -> multiprocessing.context.BaseContext:
    """Processes forked by a server that has imported the libraries, which saves seconds each."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mmdet.apis', 'carafe_plugin.detection', 'tests.runtime.toy'])
    return context


def _run_tool(name: str, argv: list[str], env: dict[str, str], log: str | Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, 'w'), os.fdopen(2, 'w')
    os.environ.update(env)
    import torch

    torch.set_num_threads(1)
    sys.argv = [name, *argv]
    load_tool(name).main()
    sys.stdout.flush()


def run_tool(name: str, argv: list, log: str | Path, **env: str) -> int:
    """Run a tool (see :func:`load_tool`) in its own process; return its exit code, negative for a signal."""
    process = process_context().Process(target=_run_tool, args=(name, list(map(str, argv)), env, log))
    process.start()
    process.join()
    return process.exitcode
