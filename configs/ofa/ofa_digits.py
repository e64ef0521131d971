# python tools/train.py configs/vanilla/digits_teacher.py
# python tools/train.py configs/ofa/ofa_digits.py
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/schedules/digits_vit_bs32.py',
    '../_base_/digits_runtime.py',
    '../_base_/models/digits.py',
    '../_base_/models/digits_vit.py',
    '../_base_/distill/ofa.py',
]

# A class token and 4 x 4 patches behind each of three layers, and behind the last norm.
_branch = dict(
    type='kd_plugins.OFATokenBranch', in_channels=32, num_classes=10, merges=1, extra_tokens=1
)
model = dict(
    type='kd_plugins.SingleTeacherDistill',
    architecture=_base_.alone,
    teacher=_base_.teacher,
    teacher_ckpt='work_dirs/digits_teacher/epoch_30.pth',
    distiller=dict(
        _base_.distiller,
        student_recorders=dict(
            labels=_base_.distiller.student_recorders.labels,
            logits=dict(type='ModuleOutputs', source='head.layers.head'),
            stage1=dict(type='ModuleOutputs', source='backbone.layers.0'),
            stage2=dict(type='ModuleOutputs', source='backbone.layers.1'),
            stage3=dict(type='ModuleOutputs', source='backbone.layers.2'),
            stage4=dict(type='ModuleOutputs', source='backbone.ln1'),
        ),
        connectors={f'branch{i}': dict(_branch, blocks=max(4 - i, 1)) for i in range(1, 5)},
    ),
)
