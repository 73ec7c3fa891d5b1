# SPDX-License-Identifier: Apache-2.0
"""What every inpainting config shares: loops counted in iterations, hooks, no scope but mmengine's own."""

custom_imports = dict(imports=['carafe_plugin.inpainting'])
default_scope = 'mmengine'
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
val_evaluator = dict(type='InpaintingMetric')
test_evaluator = val_evaluator
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100, log_metric_by_epoch=False),
    checkpoint=dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=10_000,
        max_keep_ckpts=2,
        save_best='PSNR',
        rule='greater',
    ),
    visualization=dict(type='InpaintingVisualizationHook'),
)
log_processor = dict(by_epoch=False)
env_cfg = dict(cudnn_benchmark=True)
randomness = dict(seed=0)
# Moving average of the weights: add
#   custom_hooks = [dict(type='EMAHook', momentum=0.001)]
# and validation, test and `state_dict` of the checkpoints use it.
