# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes on the CPU train what one process would, and stay alike."""

import os
import socket

import pytest
import torch
from mmdet.models import ResNet
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODEL_WRAPPERS, MODELS, DefaultScope
from torch import nn

from carafe_plugin.detection import UpsampleFPN
from carafe_plugin.runtime.distributed import cpu_model_wrapper, leave_processes, start_cpu_processes

from .helpers import process_context, write_detector_config


class Trunk(nn.Module):
    """ResNet-18 with frozen statistics and UpsampleFPN; the loss is a mean over images."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(18, base_channels=4, stem_channels=4, norm_eval=True, frozen_stages=-1)
        self.neck = UpsampleFPN([4, 8, 16, 32], 8, num_outs=5, upsample_cfg=dict(type='carafe'))

    def forward(self, images):
        outs = self.neck(self.backbone(images))
        return sum(out.sin().mean((1, 2, 3)) for out in outs[:4]).mean()


def train_trunk(images, wrapper=None):
    """One SGD step; return gradients and parameters by name."""
    torch.manual_seed(0)
    trunk = Trunk().double().train()
    model = trunk if wrapper is None else MODEL_WRAPPERS.build(dict(wrapper, module=trunk))
    optimizer = torch.optim.SGD(trunk.parameters(), lr=1.0)
    model(images).backward()
    optimizer.step()
    return {name: (p.grad, p.detach()) for name, p in trunk.named_parameters()}


def images():
    return torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def trunk_rank(rank, file, _):
    cfg = Config(dict(launcher='pytorch', model=dict()))
    start_cpu_processes(cfg)
    torch.save(train_trunk(images()[rank : rank + 1], cfg.model_wrapper_cfg), file)


def detector_rank(rank, file, config):
    """Three steps; rank 1 never sees an object, so its mask head gets no RoI."""
    cfg = Config.fromfile(config)
    cfg.launcher = 'pytorch'
    start_cpu_processes(cfg)
    torch.manual_seed(rank)  # the wrapper must make the initial parameters alike
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODEL_WRAPPERS.build(dict(cfg.model_wrapper_cfg, module=MODELS.build(cfg.model))).train()
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    without_gradient = set()
    for _ in range(3):
        inputs = demo_mm_inputs(1, [[3, 64, 64]], num_items=[3 * (1 - rank)], num_classes=2, with_mask=True)
        losses = model(**model.module.data_preprocessor(inputs, True), mode='loss')
        model.module.parse_losses(losses)[0].backward()
        without_gradient |= {
            name for name, p in model.module.named_parameters() if p.requires_grad and p.grad is None
        }
        optimizer.step()
        optimizer.zero_grad()
    torch.save(dict(state=model.module.state_dict(), without_gradient=without_gradient), file)


def _start(rank, port, target, file, config):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    target(rank, file, config)
    leave_processes()
    assert not torch.distributed.is_initialized()


def run_two(target, folder, config=None):
    """Run ``target`` in two processes and return what each saved."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    files = [folder / f'{rank}.pt' for rank in range(2)]
    processes = [
        process_context().Process(target=_start, args=(rank, port, target, file, config))
        for rank, file in enumerate(files)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0]
    return [torch.load(file) for file in files]


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path):
    expected = train_trunk(images())
    assert all(
        grad.abs().max() > 0 for name, (grad, _) in expected.items() if name.startswith('neck.upsamplers')
    )
    for actual in run_two(trunk_rank, tmp_path):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_detector_stays_alike_where_one_process_has_no_rois(tmp_path):
    config = write_detector_config(tmp_path / 'config.py', tmp_path)
    first, second = run_two(detector_rank, tmp_path, config)
    assert first['without_gradient'] == second['without_gradient'] == set()
    torch.testing.assert_close(first['state'], second['state'], rtol=0, atol=0)


@pytest.mark.parametrize(
    ('cfg', 'wrapper'),
    [
        (dict(), dict(broadcast_buffers=False, find_unused_parameters=False)),
        (dict(find_unused_parameters=True), dict(broadcast_buffers=False, find_unused_parameters=True)),
        (
            dict(model_wrapper_cfg=dict(type='MMSeparateDistributedDataParallel', broadcast_buffers=True)),
            dict(type='MMSeparateDistributedDataParallel', broadcast_buffers=True),
        ),
    ],
)
def test_model_wrapper_keeps_what_the_config_says(cfg, wrapper):
    expected = dict(type='MMDistributedDataParallel', device_ids=None) | wrapper
    assert cpu_model_wrapper(ConfigDict(cfg)) == expected
