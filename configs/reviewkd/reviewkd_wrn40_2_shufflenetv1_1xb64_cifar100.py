# python tools/train.py configs/vanilla/wrn40_2_1xb64_cifar100.py
# python tools/train.py configs/reviewkd/reviewkd_wrn40_2_shufflenetv1_1xb64_cifar100.py
_base_ = ['../_base_/models/cifar100_reviewkd.py']

model = dict(
    architecture=_base_.networks.shufflenetv1,
    teacher=_base_.networks.wrn40_2,
    teacher_ckpt='work_dirs/wrn40_2_1xb64_cifar100/epoch_240.pth',
    distiller=dict(
        student_recorders=dict(levels=dict(sources=_base_.levels.students.shufflenetv1)),
        teacher_recorders=dict(levels=dict(sources=_base_.levels.teachers.wrn40_2)),
        connectors=dict(
            fusion=dict(
                in_channels=[240, 480, 960, 960],
                out_channels=[32, 64, 128, 128],
                mid_channels=512,
                out_sizes=[32, 16, 8, 1],
            ),
        ),
        distill_losses=dict(loss_reviewkd=dict(loss_weight=5.0)),
    ),
)
del _base_.networks, _base_.levels, _base_.reviewkd

optim_wrapper = dict(optimizer=dict(lr=0.01))
