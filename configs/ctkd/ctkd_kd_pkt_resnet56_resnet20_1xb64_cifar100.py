# python tools/train.py configs/vanilla/resnet56_1xb64_cifar100.py
# python tools/train.py configs/ctkd/ctkd_kd_pkt_resnet56_resnet20_1xb64_cifar100.py
_base_ = ['ctkd_kd_resnet56_resnet20_1xb64_cifar100.py']

model = dict(
    distiller=dict(
        student_recorders=dict(features=dict(type='ModuleInputs', source='head.fc')),
        teacher_recorders=dict(features=dict(type='ModuleInputs', source='head.fc')),
        distill_losses=dict(loss_pkt=dict(type='kd_plugins.PKTLoss', loss_weight=30000.0)),
        loss_forward_mappings=dict(
            loss_pkt=dict(
                preds_S=dict(recorder='features', from_student=True, data_idx=0),
                preds_T=dict(recorder='features', from_student=False, data_idx=0),
            ),
        ),
    ),
)
