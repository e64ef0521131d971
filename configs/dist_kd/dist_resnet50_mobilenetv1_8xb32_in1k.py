# bash tools/dist_train.sh configs/dist_kd/dist_resnet50_mobilenetv1_8xb32_in1k.py 8
_base_ = ['../kd/kd_resnet50_mobilenetv1_8xb64_in1k.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=1.0))),
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(_delete_=True, type='kd_plugins.DISTLoss', tau=1.0, loss_weight=2.0),
        ),
    ),
)

# The authors' batch, over which classes are compared, and its rate.
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=0.1))
auto_scale_lr = dict(base_batch_size=256)
