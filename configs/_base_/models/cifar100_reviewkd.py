# ReviewKD on CIFAR-100; a leaf adds the networks, what is read of them, and the weight.
_base_ = [
    '../datasets/cifar100_bs64.py',
    '../schedules/cifar100_bs64_240e.py',
    '../small_pictures_runtime.py',
    '../distill/reviewkd.py',
    'cifar100.py',
]


def _stages(*names):
    """Return the three stages' maps and the pooled vector."""
    return [*(f'backbone.{name}' for name in names), dict(input_of='head.fc')]


def _before_relu(blocks):
    """Return the same of a ResNet's stages of so many blocks, before their last ReLU."""
    relus = [f'backbone.layer{stage}.{blocks - 1}.relu' for stage in (1, 2, 3)]
    return [*(dict(input_of=name) for name in relus), dict(input_of='head.fc')]


# Of students, stages as the next one takes them; of teachers, before the activation.
levels = dict(
    students=dict(
        resnet=_stages('layer1', 'layer2', 'layer3'),
        wrn=_stages('block1', 'block2', 'block3'),
        shufflenetv1=_stages('layer1', 'layer2', 'layer3'),
        shufflenetv2=_stages('layers.0', 'layers.1', 'layers.2'),
    ),
    teachers=dict(
        resnet56=_before_relu(9),
        resnet110=_before_relu(18),
        resnet32x4=_before_relu(5),
        wrn40_2=_stages('block2.0.bn1', 'block3.0.bn1', 'bn1'),
    ),
)
model = dict(
    type='kd_plugins.SingleTeacherDistill',
    distiller=dict(
        _base_.reviewkd,
        type='mmrazor.ConfigurableDistiller',
        distill_losses=dict(loss_reviewkd=dict(type='kd_plugins.ReviewKDLoss', warmup=20)),
    ),
)
