# python tools/generate_pictures.py --pipeline facebook/DiT-XL-2-256 --seeds 0-127 \
#     --out data/generated/s2_st100
# bash tools/dist_train.sh configs/dmkd/dmkd_resnet18_resnet50_8xb32_in1k-generated-1280k.py 8
_base_ = ['dmkd_resnet18_resnet50_8xb32_in1k-generated-200k.py']

train_dataloader = dict(dataset=dict(ann_file='s2_st100_1280k.txt'))
