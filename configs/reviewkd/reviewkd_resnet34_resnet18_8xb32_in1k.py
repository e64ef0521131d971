# bash tools/dist_train.sh configs/reviewkd/reviewkd_resnet34_resnet18_8xb32_in1k.py 8
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    '../_base_/schedules/imagenet_bs512_100e.py',
    '../_base_/default_runtime.py',
    '../_base_/models/resnet34_resnet18_in1k.py',
    '../_base_/distill/reviewkd.py',
]


def _before_relu(names):
    return [dict(input_of=f'backbone.{name}') for name in names] + [dict(input_of='head.fc')]


_student = _before_relu(['layer1.1.relu', 'layer2.1.relu', 'layer3.1.relu', 'layer4.1.relu'])
_teacher = _before_relu(['layer1.2.relu', 'layer2.3.relu', 'layer3.5.relu', 'layer4.2.relu'])
_fusion = dict(
    type='kd_plugins.ReviewKDConnector',
    in_channels=[64, 128, 256, 512, 512],
    mid_channels=512,
)
model = dict(
    distiller=dict(
        _base_.reviewkd,
        _delete_=True,
        student_recorders=dict(levels=dict(type='kd_plugins.Features', sources=_student)),
        teacher_recorders=dict(levels=dict(type='kd_plugins.Features', sources=_teacher)),
        connectors=dict(fusion=_fusion),
        distill_losses=dict(
            loss_reviewkd=dict(type='kd_plugins.ReviewKDLoss', loss_weight=1.0),
        ),
    ),
)
del _base_.reviewkd

# The published batch and rate.
optim_wrapper = dict(optimizer=dict(lr=0.1))
auto_scale_lr = dict(base_batch_size=256)
