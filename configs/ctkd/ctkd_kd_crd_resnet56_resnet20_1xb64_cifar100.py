# python tools/train.py configs/vanilla/resnet56_1xb64_cifar100.py
# python tools/train.py configs/ctkd/ctkd_kd_crd_resnet56_resnet20_1xb64_cifar100.py
# One process only: mmrazor's CRDLoss keeps a memory of its own in each (51 MB in checkpoints).
_base_ = ['ctkd_kd_resnet56_resnet20_1xb64_cifar100.py']

features = dict(type='ModuleInputs', source='head.fc')
projection = dict(type='CRDConnector', dim_in=64, dim_out=128)

model = dict(
    distiller=dict(
        student_recorders=dict(features=features, inputs=dict(type='ModuleInputs', source='')),
        teacher_recorders=dict(features=features),
        connectors=dict(project_S=projection, project_T=projection),
        distill_losses=dict(
            # Weighted, because mmrazor's CRDLoss ignores its own loss_weight.
            loss_crd=dict(
                type='kd_plugins.Weighted',
                loss_weight=0.8,
                loss=dict(type='mmrazor.CRDLoss', neg_num=16384, sample_n=50000, dim_out=128),
            ),
        ),
        loss_forward_mappings=dict(
            loss_crd=dict(
                s_feats=dict(
                    recorder='features', from_student=True, data_idx=0, connector='project_S'
                ),
                t_feats=dict(
                    recorder='features', from_student=False, data_idx=0, connector='project_T'
                ),
                data_samples=dict(recorder='inputs', from_student=True, data_idx=1),
            ),
        ),
    ),
)
_base_.train_dataloader.dataset.pipeline[-1] = dict(type='kd_plugins.PackContrastInputs')
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmrazor.CRDDataset',
        dataset=_base_.train_dataloader.dataset,
        neg_num=16384,
        percent=1.0,
        num_classes=100,
    ),
)
