# bash tools/dist_train.sh configs/fullmatch/fullflex_wrn37-2_8xb8_stl10-40.py 8
_base_ = ['fullmatch_wrn37-2_8xb8_stl10-40.py']

model = dict(
    distiller=dict(
        connectors=dict(
            pseudo_labels=dict(type='kd_plugins.FlexiblePseudoLabels', num_unlabelled=105000)
        ),
    ),
)
