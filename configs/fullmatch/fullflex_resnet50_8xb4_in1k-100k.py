# bash tools/dist_train.sh configs/fullmatch/fullflex_resnet50_8xb4_in1k-100k.py 8
_base_ = ['fullmatch_resnet50_8xb4_in1k-100k.py']

model = dict(
    distiller=dict(
        connectors=dict(
            pseudo_labels=dict(type='kd_plugins.FlexiblePseudoLabels', num_unlabelled=1281167)
        ),
    ),
)
