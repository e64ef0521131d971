# bash tools/dist_train.sh configs/deit/deit-soft_regnety-16gf_deit-tiny_8xb128_in1k.py 8 --amp
_base_ = ['deit-hard_regnety-16gf_deit-tiny_8xb128_in1k.py']

# The paper's lambda 0.1 and tau 3, as equation 2 has them: a mean over pictures.
model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.9))),
    distiller=dict(
        distill_losses=dict(
            loss_deit=dict(form='soft', tau=3.0, normalizer='mean', loss_weight=0.1),
        ),
    ),
)
