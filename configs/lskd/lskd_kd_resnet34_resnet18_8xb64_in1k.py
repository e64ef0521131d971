# bash tools/dist_train.sh configs/lskd/lskd_kd_resnet34_resnet18_8xb64_in1k.py 8
_base_ = ['../kd/kd_resnet34_resnet18_8xb64_in1k.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=1.0))),
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                tau=dict(_delete_=True, type='kd_plugins.LSKDTemperature', tau=2.0), loss_weight=9.0
            ),
        ),
    ),
)
