# bash tools/dist_train.sh configs/cskd/cskd_resnet50_deit-tiny_8xb128_in1k.py 8 --amp
_base_ = ['cskd_regnety-16gf_deit-tiny_8xb128_in1k.py', '../_base_/models/resnet50-rsb_in1k.py']

model = dict(teacher=dict(_delete_=True, **_base_.resnet50), teacher_ckpt=_base_.resnet50_ckpt)
