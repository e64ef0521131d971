# bash tools/dist_train.sh configs/crosskd/crosskd_pkd_atss_r101_r50_fpn_1x_coco.py 8
_base_ = ['crosskd_atss_r101_r50_fpn_1x_coco.py']

_neck = dict(type='kd_plugins.Features')
model = dict(
    distiller=dict(
        student_recorders=dict(neck=_neck),
        teacher_recorders=dict(neck=_neck),
        distill_losses=dict(loss_pkd=dict(type='kd_plugins.PKDLoss', loss_weight=1.0)),
        loss_forward_mappings=dict(
            loss_pkd=dict(
                preds_S=dict(recorder='neck', from_student=True),
                preds_T=dict(recorder='neck', from_student=False),
            )
        ),
    )
)
