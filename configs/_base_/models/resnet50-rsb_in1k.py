# A CNN teacher of mmpretrain's own, 80.1 % top-1.
resnet50 = dict(cfg_path='mmpretrain::resnet/resnet50_8xb256-rsb-a1-600e_in1k.py')
resnet50_ckpt = (
    'https://download.openmmlab.com/mmclassification/v0/resnet/'
    'resnet50_8xb256-rsb-a1-600e_in1k_20211228-20e21305.pth'
)
