# python tools/train.py configs/vanilla/resnet56_1xb64_cifar100.py
# python tools/train.py configs/ctkd/ctkd_kd_vid_resnet56_resnet20_1xb64_cifar100.py
_base_ = ['ctkd_kd_resnet56_resnet20_1xb64_cifar100.py']

stages = {1: 16, 2: 32, 3: 64}
recorders = {f'map{i}': dict(type='ModuleOutputs', source=f'backbone.layer{i}') for i in stages}

model = dict(
    distiller=dict(
        student_recorders=recorders,
        teacher_recorders=recorders,
        distill_losses={
            f'loss_vid{i}': dict(type='kd_plugins.VIDLoss', channels_S=c, channels_T=c)
            for i, c in stages.items()
        },
        loss_forward_mappings={
            f'loss_vid{i}': dict(
                preds_S=dict(recorder=f'map{i}', from_student=True),
                preds_T=dict(recorder=f'map{i}', from_student=False),
            )
            for i in stages
        },
    ),
)
