# bash tools/dist_train.sh configs/ofa/ofa_resnet50_deit-tiny_8xb128_in1k.py 8 --amp
_base_ = ['../_base_/schedules/deit_300e_in1k.py', '../_base_/distill/ofa.py']

_tokens = dict(type='kd_plugins.OFATokenBranch', in_channels=192, num_classes=1000, extra_tokens=1)
model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py'),
    teacher=dict(cfg_path='mmpretrain::resnet/resnet50_8xb32_in1k.py'),
    teacher_ckpt='https://download.openmmlab.com/mmclassification/v0/'
    'resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth',
    distiller=dict(
        _base_.distiller,
        student_recorders=dict(
            labels=_base_.distiller.student_recorders.labels,
            logits=dict(type='ModuleOutputs', source='head.layers.head'),
            # The published places: behind the second, fourth, tenth and last of twelve layers.
            stage1=dict(type='ModuleOutputs', source='backbone.layers.1'),
            stage2=dict(type='ModuleOutputs', source='backbone.layers.3'),
            stage3=dict(type='ModuleOutputs', source='backbone.layers.9'),
            stage4=dict(type='ModuleOutputs', source='backbone.layers.11'),
        ),
        connectors={
            f'branch{i}': dict(_tokens, merges=1, blocks=max(4 - i, 1)) for i in range(1, 5)
        },
    ),
)

# The published training: half the rate, no repeated pictures, a longer warm-up, gradients clipped.
train_dataloader = dict(sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True))
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=280, eta_min=1e-6, by_epoch=True, begin=20, end=300),
]
