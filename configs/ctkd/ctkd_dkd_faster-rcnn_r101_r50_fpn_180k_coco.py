# bash tools/dist_train.sh configs/ctkd/ctkd_dkd_faster-rcnn_r101_r50_fpn_180k_coco.py 4
_base_ = ['../dkd/dkd_faster-rcnn_r101_r50_fpn_180k_coco.py']

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_dkd=dict(loss=dict(tau=dict(_delete_=True, type='kd_plugins.GlobalTemperature'))),
        ),
    ),
)
# Not published for detectors: the same part of the training as on CIFAR-100.
default_hooks = dict(
    curriculum_temperature=dict(
        type='kd_plugins.CurriculumTemperatureHook', length=7500, by_epoch=False
    ),
)
