# hf download timm/vit_base_patch16_clip_224.openai --local-dir weights/clip-base   (or by hand)
# bash tools/dist_train.sh configs/cosine/cosine_clip-base_resnet18_8xb64_in1k.py 8 --amp
_base_ = ['cosine_dinov2-small_resnet18_8xb64_in1k.py']

model = dict(
    # timm's CLIP, with CLIP's own mean and deviation: pip install timm
    teacher=dict(
        _delete_=True,
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='kd_plugins.TimmFeatures',
            model_name='vit_base_patch16_clip_quickgelu_224.openai',
            dynamic_img_size=True,
        ),
    ),
    teacher_ckpt='weights/clip-base/model.safetensors',
    distiller=dict(connectors=dict(projector=dict(out_channels=[768]))),
)
