# SPDX-License-Identifier: Apache-2.0
"""FSDP2: two gloo processes hold a share of the weights each and compute what one would."""

import copy

import pytest
import torch

from carafe_plugin.detection import UpsampleFPN
from carafe_plugin.inpainting import PartialUpsample
from carafe_plugin.runtime.distributed import start_cpu_processes
from carafe_plugin.upsamplers import UPSAMPLERS, Upsampler, build_upsampler
from tests.torch_versions import VERSION
from tests.upsamplers.cases import CASES

from .test_distributed import run_two

pytestmark = pytest.mark.skipif(VERSION < (2, 6), reason='FSDP2 is served from torch 2.6 on')
QUICK = [('neck', 'fade-gate'), ('neck', 'freqfusion'), ('partial', 'carafe')]


class InPartialConvolutions(torch.nn.Module):
    """The step of the inpainting networks, whose mask has a hole."""

    def __init__(self, cfg):
        super().__init__()
        self.step = PartialUpsample(build_upsampler(cfg, 8, guide_channels=8))

    def forward(self, maps):
        fine, coarse = maps
        mask = torch.ones_like(coarse[:, :1])
        mask[:, :, 1:3] = 0
        guide = fine if self.step.upsampler.needs_guide else None
        return self.step(coarse, mask, fine.shape[-2:], guide)[:1]


def make(kind, case):
    torch.manual_seed(0)
    if kind == 'neck':
        model = UpsampleFPN([8, 8, 8], 8, num_outs=3, upsample_cfg=dict(CASES[case]))
    else:
        model = InPartialConvolutions(dict(CASES[case]))
    return model.double().eval()  # batch norm would see one image in each process


def maps(kind):
    sizes = [(9, 12), (5, 6), (3, 3)] if kind == 'neck' else [(9, 12), (5, 6)]
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(2, 8, *size, dtype=torch.float64, generator=rng) for size in sizes]


def step(model, inputs):
    """Outputs and gradients, whole on every process."""
    outputs = model(inputs)
    sum(out.sin().mean((1, 2, 3)) for out in outputs).mean().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    return outputs, {k: g.full_tensor() if hasattr(g, 'full_tensor') else g for k, g in grads.items()}


def shard(model):
    """Each upsampler on its own, then the rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh('cpu', (2,))
    for module in model.modules():
        if isinstance(module, Upsampler) and any(True for _ in module.parameters()):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def start():
    from mmengine.config import Config

    start_cpu_processes(Config(dict(launcher='pytorch', model=dict())))


def rank(rank, file, cases):
    start()
    results = {}
    for kind, case in cases:
        model = make(kind, case)
        keys = list(model.state_dict())
        if not any(True for _ in model.parameters()):
            continue
        shard(model)
        assert list(model.state_dict()) == keys
        outputs, grads = step(model, [x[rank : rank + 1] for x in maps(kind)])
        results[kind, case] = [out.detach() for out in outputs], grads
    torch.save(results, file)


def check(cases, folder):
    first, second = run_two(rank, folder, cases)
    assert first.keys() == second.keys()
    for (kind, case), (outputs, grads) in first.items():
        expected, expected_grads = step(make(kind, case), maps(kind))
        both = [torch.cat(pair) for pair in zip(outputs, second[kind, case][0], strict=True)]
        torch.testing.assert_close(both, [out.detach() for out in expected], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(grads, expected_grads, rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(second[kind, case][1], expected_grads, rtol=1e-8, atol=1e-11)


def test_two_processes_equal_one(tmp_path):
    check(QUICK, tmp_path)


@pytest.mark.slow
def test_every_upsampler(tmp_path):
    check([(kind, case) for case in CASES for kind in ('neck', 'partial')], tmp_path)


def hosts_rank(rank, file, host):
    """Every upsampler in one host: outputs of the sharded model against those of a copy."""
    from tests.detection import test_hosts as detection
    from tests.segmentation.hosts import HOSTS

    start()
    failures = []
    for name in UPSAMPLERS:
        guided = HOSTS[host].has_guide if host in HOSTS else detection.HOSTS[host][1]
        if UPSAMPLERS.get(name).needs_guide and not guided:
            continue
        if host in HOSTS:
            model, inputs = HOSTS[host].build(dict(type=name)), HOSTS[host].inputs()
            run = HOSTS[host].run
        else:
            model, inputs = detection.build(host, dict(type=name)).eval(), detection.inputs(host)
            run = detection.outputs
        if not any(True for m in model.modules() if isinstance(m, Upsampler) for _ in m.parameters()):
            continue
        try:
            expected = [out.detach() for out in run(copy.deepcopy(model), inputs)]
            shard(model)
            outputs = run(model, inputs)
            torch.testing.assert_close([out.detach() for out in outputs], expected, rtol=1e-4, atol=1e-4)
            sum(out.square().mean() for out in outputs).backward()
        except Exception as error:
            failures.append(f'{name}: {type(error).__name__}: {error}')
    torch.save(failures, file)


@pytest.mark.slow
@pytest.mark.parametrize(
    'host',
    [
        *('UpsampleFPN', 'UpsampleFPNCARAFE', 'UpsamplePAFPN', 'UpsampleYOLOXPAFPN', 'UpsampleCSPNeXtPAFPN'),
        *('UpsampleFCNMaskHead', 'UpsamplePanopticFPNHead'),
        *('uper_ppm', 'uper_fpn', 'uper_fusion', 'segformer', 'fpn', 'fpn_head', 'setr_up', 'unet'),
        *('maskformer', 'mask2former'),
    ],
)
def test_every_host(tmp_path, host):
    assert run_two(hosts_rank, tmp_path, host) == [[], []]
