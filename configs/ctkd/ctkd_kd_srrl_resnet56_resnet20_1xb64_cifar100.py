# python tools/train.py configs/vanilla/resnet56_1xb64_cifar100.py
# python tools/train.py configs/ctkd/ctkd_kd_srrl_resnet56_resnet20_1xb64_cifar100.py
_base_ = ['ctkd_kd_resnet56_resnet20_1xb64_cifar100.py']

features = dict(type='ModuleInputs', source='head.fc')

model = dict(
    distiller=dict(
        student_recorders=dict(features=features),
        teacher_recorders=dict(
            features=features,
            weight=dict(type='Parameter', source='head.fc.weight'),
            bias=dict(type='Parameter', source='head.fc.bias'),
        ),
        distill_losses=dict(
            loss_srrl=dict(type='kd_plugins.SRRLLoss', channels_S=64, channels_T=64)
        ),
        loss_forward_mappings=dict(
            loss_srrl=dict(
                preds_S=dict(recorder='features', from_student=True, data_idx=0),
                preds_T=dict(recorder='features', from_student=False, data_idx=0),
                weight_T=dict(recorder='weight', from_student=False),
                bias_T=dict(recorder='bias', from_student=False),
            ),
        ),
    ),
)
