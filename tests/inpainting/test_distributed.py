# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes that train generator and discriminator in turns stay alike."""

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODEL_WRAPPERS, MODELS

from carafe_plugin import inpainting  # noqa: F401
from carafe_plugin.runtime.distributed import start_cpu_processes
from tests.runtime.test_distributed import run_two

MODEL = dict(
    type='Inpainter',
    generator=dict(type='GlobalLocalGenerator', base_channels=4, upsample_cfg=dict(type='carafe')),
    discriminator=dict(type='PatchDiscriminator', base_channels=4, num_layers=2),
    weights=dict(hole=1.0, adversarial=0.1),
)
OPTIMIZER = dict(optimizer=dict(type='SGD', lr=0.1))


def inpainter_rank(rank, file, _):
    wrapper = dict(type='MMSeparateDistributedDataParallel')
    cfg = Config(dict(launcher='pytorch', model=MODEL, model_wrapper_cfg=wrapper))
    start_cpu_processes(cfg)
    torch.manual_seed(rank)  # the wrapper must make the initial parameters alike
    model = MODEL_WRAPPERS.build(dict(cfg.model_wrapper_cfg, module=MODELS.build(cfg.model))).train()
    before = {name: p.clone() for name, p in model.module.named_parameters()}
    optimizers = build_optim_wrapper(
        model,
        ConfigDict(
            constructor='GeneratorDiscriminatorConstructor', generator=OPTIMIZER, discriminator=OPTIMIZER
        ),
    )
    g = torch.Generator().manual_seed(10 + rank)
    for _ in range(3):
        images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=g)
        holes = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
        holes[..., 4 + rank : 9, 3:8] = 1
        model.train_step(dict(inputs=list(images), data_samples=dict(holes=list(holes))), optimizers)
    after = dict(model.module.named_parameters())
    torch.save(dict(after=after, still={n for n, p in after.items() if torch.equal(p, before[n])}), file)


def test_both_networks_stay_alike(tmp_path):
    first, second = run_two(inpainter_rank, tmp_path)
    torch.testing.assert_close(first['after'], second['after'], rtol=0, atol=0)
    # Scores within the hinge: the two halves of the loss cancel in the last offset.
    assert first['still'] <= {'discriminator.module.layers.2.bias'}
