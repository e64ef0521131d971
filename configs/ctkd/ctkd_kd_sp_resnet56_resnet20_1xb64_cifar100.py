# python tools/train.py configs/vanilla/resnet56_1xb64_cifar100.py
# python tools/train.py configs/ctkd/ctkd_kd_sp_resnet56_resnet20_1xb64_cifar100.py
_base_ = ['ctkd_kd_resnet56_resnet20_1xb64_cifar100.py']

model = dict(
    distiller=dict(
        student_recorders=dict(maps=dict(type='ModuleOutputs', source='backbone.layer3')),
        teacher_recorders=dict(maps=dict(type='ModuleOutputs', source='backbone.layer3')),
        distill_losses=dict(loss_sp=dict(type='kd_plugins.SPLoss', loss_weight=3000.0)),
        loss_forward_mappings=dict(
            loss_sp=dict(
                preds_S=dict(recorder='maps', from_student=True),
                preds_T=dict(recorder='maps', from_student=False),
            ),
        ),
    ),
)
