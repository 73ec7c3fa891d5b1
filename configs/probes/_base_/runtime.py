# SPDX-License-Identifier: Apache-2.0
"""What all probes share: epochs, hooks, evaluation by mIoU."""

_base_ = 'mmseg::_base_/default_runtime.py'
custom_imports = dict(imports=['carafe_plugin.probes'])
log_processor = dict(by_epoch=True)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
    check_data=dict(type='CheckDataHook'),
)
