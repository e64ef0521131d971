# bash tools/dist_train.sh configs/ctkd/ctkd_dkd_resnet34_resnet18_8xb32_in1k.py 8
_base_ = ['ctkd_kd_resnet34_resnet18_8xb32_in1k.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(type='kd_plugins.DKDLoss', alpha=1.0, beta=1.0, warmup=1),
        ),
    ),
)
