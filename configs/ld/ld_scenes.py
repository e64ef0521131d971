# python tools/train.py configs/vanilla/gfl_scenes_teacher.py
# python tools/train.py configs/ld/ld_scenes.py
_base_ = ['../vanilla/gfl_scenes_student.py']

model = dict(
    type='KnowledgeDistillationSingleStageDetector',
    teacher_config=dict(model=_base_.teacher),
    teacher_ckpt='work_dirs/gfl_scenes_teacher/epoch_12.pth',
    bbox_head=dict(
        type='LDHead',
        # mmdet's LD is summed over the objects of a batch: 0.25 is meant for 2 pictures a
        # process, these are 8.
        loss_ld=dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.0625, T=10),
    ),
)
