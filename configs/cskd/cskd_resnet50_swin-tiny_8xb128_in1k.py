# bash tools/dist_train.sh configs/cskd/cskd_resnet50_swin-tiny_8xb128_in1k.py 8 --amp
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    '../_base_/default_runtime.py',
    '../_base_/models/resnet50-rsb_in1k.py',
    '../_base_/distill/cskd.py',
]

# No distillation token here: one classifier learns from the labels and from the teacher,
# on the pooled map and at its 7 x 7 positions. Data and schedule are Swin's own.
model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=dict(
        cfg_path='mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        head=dict(loss=dict(loss_weight=0.5)),
    ),
    teacher=_base_.resnet50,
    teacher_ckpt=_base_.resnet50_ckpt,
    distiller=dict(
        distill_losses=dict(
            loss_deit=dict(type='kd_plugins.DeiTLoss', form='hard', loss_weight=0.5),
            loss_cskd=dict(
                type='kd_plugins.CSKDLoss', form='hard', decay='linear', loss_weight=1.0
            ),
        ),
        **_base_.distiller,
    ),
)
model['distiller']['student_recorders']['token'] = dict(type='ModuleOutputs', source='head.fc')

train_dataloader = dict(batch_size=128)
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
