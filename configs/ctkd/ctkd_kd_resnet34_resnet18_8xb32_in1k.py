# bash tools/dist_train.sh configs/ctkd/ctkd_kd_resnet34_resnet18_8xb32_in1k.py 8
_base_ = ['../kd/kd_resnet34_resnet18_8xb64_in1k.py']

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=1.0))),
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                tau=dict(_delete_=True, type='kd_plugins.GlobalTemperature'), loss_weight=1.0
            ),
        ),
    ),
)
default_hooks = dict(
    curriculum_temperature=dict(type='kd_plugins.CurriculumTemperatureHook', length=5),
)

# The authors' protocol: lr 0.1 for 256 pictures, 120 epochs, x0.1 at 30/60/90.
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=0.1))
train_cfg = dict(max_epochs=120)
auto_scale_lr = dict(base_batch_size=256)
