# bash tools/dist_train.sh configs/ofa/ofa_deit-tiny_resnet18_8xb64_in1k.py 8 --amp
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    '../_base_/default_runtime.py',
    '../_base_/distill/ofa.py',
]

_branch = dict(type='kd_plugins.OFAMapBranch', num_classes=1000, out_channels=512)
model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(
        cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py',
        head=dict(loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1)),
    ),
    teacher=dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py'),
    teacher_ckpt='https://download.openmmlab.com/mmclassification/v0/'
    'deit/deit-tiny_pt-4xb256_in1k_20220218-13b382a0.pth',
    distiller=dict(
        _base_.distiller,
        student_recorders=dict(
            _base_.distiller.student_recorders,
            **{
                f'stage{i}': dict(type='ModuleOutputs', source=f'backbone.layer{i}')
                for i in range(1, 5)
            },
        ),
        teacher_recorders=dict(logits=dict(type='ModuleOutputs', source='head.layers.head')),
        connectors={
            f'branch{i}': dict(_branch, in_channels=32 * 2**i, halvings=4 - i) for i in range(1, 5)
        },
        distill_losses={f'loss_ofa{i}': dict(type='kd_plugins.OFALoss', eps=1.5) for i in range(5)},
    ),
)

# 512 pictures a step: a rate of 0.1, after 3 epochs of warm-up a tenth of it every 30 epochs.
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=3, convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=512)
