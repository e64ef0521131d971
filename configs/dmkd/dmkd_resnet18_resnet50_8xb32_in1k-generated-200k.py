# python tools/generate_pictures.py --pipeline facebook/DiT-XL-2-256 --out data/generated/s2_st100
# bash tools/dist_train.sh configs/dmkd/dmkd_resnet18_resnet50_8xb32_in1k-generated-200k.py 8
_base_ = [
    '../_base_/datasets/imagenet_generated_bs32.py',
    '../_base_/schedules/imagenet_bs256_200e.py',
    '../_base_/default_runtime.py',
    '../_base_/distill/dmkd.py',
    '../_base_/models/resnets_in1k.py',
]

model = dict(
    architecture=_base_.students.resnet50,
    teacher=_base_.teachers.resnet18,
    teacher_ckpt='torchvision://resnet18',
)
del _base_.students, _base_.teachers
