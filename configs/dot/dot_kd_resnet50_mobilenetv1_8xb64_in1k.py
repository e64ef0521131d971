# bash tools/dist_train.sh configs/dot/dot_kd_resnet50_mobilenetv1_8xb64_in1k.py 8
_base_ = ['../kd/kd_resnet50_mobilenetv1_8xb64_in1k.py']

optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.09)
