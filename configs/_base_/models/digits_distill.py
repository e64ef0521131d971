# The digits student beside its trained teacher; a leaf adds distill_losses.
_base_ = ['../../vanilla/digits_student.py', '../distill/logits.py']

model = dict(
    _delete_=True,
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.model,
    teacher=dict(
        _base_.model,
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            in_channels=1,
            stem_channels=16,
            base_channels=16,
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
        ),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    ),
    teacher_ckpt='work_dirs/digits_teacher/epoch_30.pth',
    distiller=_base_.distiller,
)
