"""Made-up pictures and boxes for detectors."""

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData


def images(seed=0, size=64, classes=3):
    """Two pictures with two boxes each, as a data loader gives them."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 255, (2, 3, size, size), generator=generator)
    shape = (size, size)
    samples = []
    for i in range(2):
        info = dict(img_shape=shape, batch_input_shape=shape, pad_shape=shape, scale_factor=(1, 1))
        sample = DetDataSample(metainfo=info)
        corner = torch.rand(2, 2, generator=generator) * 25
        boxes = torch.cat([corner, corner + 16 + 20 * i], dim=1)
        labels = torch.randint(classes, (2,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        samples.append(sample)
    return dict(inputs=list(inputs), data_samples=samples)
