# bash tools/dist_train.sh configs/dkd/dkd_resnet50_mobilenetv1_8xb64_in1k.py 8
_base_ = ['../kd/kd_resnet50_mobilenetv1_8xb64_in1k.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=1.0))),
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                _delete_=True, type='kd_plugins.DKDLoss', tau=1.0, alpha=1.0, beta=2.0, warmup=1
            ),
        ),
    ),
)
