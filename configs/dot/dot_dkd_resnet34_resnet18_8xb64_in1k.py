# bash tools/dist_train.sh configs/dot/dot_dkd_resnet34_resnet18_8xb64_in1k.py 8
_base_ = ['../dkd/dkd_resnet34_resnet18_8xb64_in1k.py']

# The paper has a figure for this pair and no settings; delta is that of KD.
optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.09)
