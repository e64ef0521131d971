# The teachers of ReviewKD and DKD on COCO are detectron2's, trained for 3x; these are the
# ones of mmdet's model index that are nearest to them.
teachers = dict(
    r101=dict(
        cfg_path='mmdet::faster_rcnn/faster-rcnn_r101-caffe_fpn_ms-3x_coco.py',
        pretrained=True,
        # mmdet 3.x lost these in its config of this file, which was trained with them
        # (2.28.2: img_norm_cfg): without them the teacher sees pictures unlike its own.
        data_preprocessor=dict(
            mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False
        ),
    ),
    r50=dict(
        cfg_path='mmdet::faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-3x_coco.py', pretrained=True
    ),
)
