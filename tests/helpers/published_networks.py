"""What the published networks gave, and their names for our weights.

Recorded from github.com/megvii-research/mdistiller, commit a08d46f, whose CIFAR
networks are RepDistiller's (b84f547) and CTKD's (7d52522), unless another source
stands beside a network: parameters, a digest of the state dict's keys and shapes,
and three numbers of the logits in float64, with the weights of :func:`weight` and
the pictures of :func:`pictures`.
"""

import hashlib
import re
from zlib import crc32

import numpy as np
import torch


def resnet(depth, **kwargs):
    return dict(type='kd_plugins.CIFARResNet', depth=depth, **kwargs)


def wide(depth, factor):
    return dict(type='kd_plugins.CIFARWideResNet', depth=depth, widen_factor=factor)


def preact(depth):
    return dict(type='kd_plugins.CIFARPreActResNet', depth=depth)


def pyramid(depth, alpha):
    return dict(type='kd_plugins.CIFARPyramidNet', depth=depth, alpha=alpha)


def vgg(depth, **kwargs):
    return dict(type='kd_plugins.CIFARVGG', depth=depth, **kwargs)


CLASSES = {'MobileNetV1': 1000, 'MobileNetV2 at 64 pixels': 200}
X4 = dict(stem_channels=32, base_channels=64)

# name: backbone, channels of the last map, pixels, their name of the classifier,
# parameters, digest, (logit 0 of picture 0, logit -1 of picture 1, mean magnitude)
NETWORKS = {
    'resnet8': (resnet(8), 64, 32, 'fc', 83892, '99cb0c0b2ea3',
                (12.305888796876742, -6.317052671145153, 5.178050914346478)),
    'resnet14': (resnet(14), 64, 32, 'fc', 181108, '629933907d57',
                 (1.6681824638480673, -3.425644146569664, 7.713455489795044)),
    'resnet20': (resnet(20), 64, 32, 'fc', 278324, '0386434ca6f3',
                 (9.773717072227221, 22.23800013491735, 38.62103818777323)),
    'resnet32': (resnet(32), 64, 32, 'fc', 472756, '9e5592f61f00',
                 (-547.7878210135749, -153.3439446757331, 416.9137379384121)),
    'resnet44': (resnet(44), 64, 32, 'fc', 667188, 'df3dce284c7a',
                 (7051.098802752453, -7831.672672908082, 9773.069749350012)),
    'resnet56': (resnet(56), 64, 32, 'fc', 861620, 'fa692cabb2e3',
                 (10128.251165579672, -97340.63191639961, 110706.27655618644)),
    'resnet110': (resnet(110), 64, 32, 'fc', 1736564, '9ca5a9542fb3',
                  (165320375428.67245, -102513615157.36679, 80773447777.42426)),
    'resnet8x4': (resnet(8, **X4), 256, 32, 'fc', 1233540, 'b2ead61a142e',
                  (-8.07495276473843, 4.299270688256549, 3.0292700090454825)),
    'resnet32x4': (resnet(32, **X4), 256, 32, 'fc', 7433860, '99154b2aea1a',
                   (-1036.0595155846433, 2978.907643112724, 1224.6129201271565)),
    'wrn_16_1': (wide(16, 1), 64, 32, 'fc', 180916, 'b4de1d786e12',
                 (-13.011199969271964, 5.372560725350261, 9.594224061676833)),
    'wrn_16_2': (wide(16, 2), 128, 32, 'fc', 703284, '2266f04469bf',
                 (-28.237353138503988, 36.69551083614361, 12.26801569333762)),
    'wrn_40_1': (wide(40, 1), 64, 32, 'fc', 569780, '01abc5646d8c',
                 (-141.79189227267696, -876.815859548407, 590.2576680501493)),
    'wrn_40_2': (wide(40, 2), 128, 32, 'fc', 2255156, '595ec0db20d1',
                 (-2768.7743320303675, 450.781330652915, 990.4151614589987)),
    'vgg8': (vgg(8), 512, 32, 'classifier', 3965028, '7f85b8479109',
             (2.705914912549645, 1.3114073588169206, 3.0785785917965223)),
    'vgg11': (vgg(11), 512, 32, 'classifier', 9277284, '6053995f6332',
              (0.48982101205160244, -0.9388687337364111, 2.579061223258254)),
    'vgg13': (vgg(13), 512, 32, 'classifier', 9462180, '5778ceb5832e',
              (0.9050784237335066, 0.49450241173285103, 2.5617435231736745)),
    'vgg16': (vgg(16), 512, 32, 'classifier', 14774436, '0729229b1855',
              (2.062204263350851, -1.0803388211389962, 2.2704590664860884)),
    'vgg19': (vgg(19), 512, 32, 'classifier', 20086692, 'e27ccb5da4f3',
              (-0.21592076120417236, -0.8738467370626443, 1.8793354698877494)),
    'vgg13 at 64 pixels': (vgg(13, num_pools=4), 512, 64, 'classifier', 9462180, '5778ceb5832e',
                           (1.9522946780315875, -0.160902368437294, 3.901565468976431)),
    'MobileNetV2': (dict(type='kd_plugins.CIFARMobileNetV2'), 1280, 32, 'classifier.0', 812836,
                    '54501c9a7e31', (-2287.8298233209584, -1363.770364956555, 3428.4166818049084)),
    'ShuffleV1': (dict(type='kd_plugins.CIFARShuffleNetV1'), 960, 32, 'linear', 949258,
                  '1282e767b3e9', (1775.31135406193, 800.3939229403112, 1353.081732889093)),
    'ShuffleV2': (dict(type='kd_plugins.CIFARShuffleNetV2'), 1024, 32, 'linear', 1355528,
                  '9b7750ae0328', (174.21944891549853, -15.817461757296302, 227.14503655224715)),
    # mmpretrain's own.
    'ResNet18': (dict(type='ResNet_CIFAR', depth=18), 512, 32, 'linear', 11220132, '051a1cb098ad',
                 (-0.2010379539442677, -15.282594644651015, 32.31009221710286)),
    'ResNet50': (dict(type='ResNet_CIFAR', depth=50), 2048, 32, 'linear', 23705252, 'd5367c1bcc2c',
                 (1223.7748376035154, -8119.220456653486, 6529.604757683815)),
    # megvii-research/zipfls (108e27a), without the heads that its commands leave idle.
    'preact10': (preact(10), 512, 32, 'linear', 4946724, '5bd5355b0b79',
                 (-9.777210591696303, 16.85662522883654, 7.087843136375149)),
    'preact18': (preact(18), 512, 32, 'linear', 11217444, '0e3255f6a440',
                 (15.615843898093654, -18.992250530279126, 45.49100095777685)),
    # implus/RecursiveMix-pytorch (ed381bf), without the head of the pasted regions.
    'pyramid20_24': (pyramid(20, 24), 160, 32, 'fc', 112916, '475ffdc3d752',
                     (48.38257420989337, 138.44116177389301, 69.33122926109608)),
    'pyramid164_270': (pyramid(164, 270), 1144, 32, 'fc', 27319071, '48e7fc7478aa',
                       (-5.135641621920461e+17, 8.98678761382391e+17, 7.65404413971419e+17)),
    'pyramid200_240': (pyramid(200, 240), 1024, 32, 'fc', 26844952, '23bb10510cc8',
                       (1.8253101891750344e+22, 1.5192651878814718e+22, 4.655462172430969e+22)),
    # On Tiny-ImageNet, with 200 classes; its classifier, a 1 x 1 convolution, is a linear one.
    'MobileNetV2 at 64 pixels': (dict(type='kd_plugins.TinyImageNetMobileNetV2'), 1280, 64, 'fc',
                                 2497480, 'b133480e26a9',
                                 (2.921889631388839, 1.8475118648914766, 2.4860547225300103)),
    # On ImageNet, with 1000 classes.
    'MobileNetV1': (dict(type='kd_plugins.MobileNetV1'), 1024, 224, 'fc', 4231976, 'b4dbf81690c4',
                    (-9.830245659667842, -5.268524737067505, 7.024412276031115)),
}  # fmt: skip


def classifier(name, classes=None):
    """Config of the whole network."""
    backbone, channels = NETWORKS[name][:2]
    classes = classes or CLASSES.get(name, 100)
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=channels),
    )


def published_key(key, name):
    """Return the published network's name of one of our weights: the way back."""
    kind, linear = NETWORKS[name][0]['type'].split('.')[-1], NETWORKS[name][3]
    if key.startswith('head.fc.'):
        return key.replace('head.fc', linear)
    key = key.removeprefix('backbone.')
    if kind == 'CIFARWideResNet':
        key = re.sub(r'^(block\d)\.', r'\1.layer.', key)
        return key.replace('.shortcut.', '.convShortcut.')
    if kind == 'TinyImageNetMobileNetV2':
        key = re.sub(r'^blocks\.(\d)\.', lambda m: f'stage{int(m[1]) + 1}.', key)
        return re.sub(r'^(stage[17])\.0\.', r'\1.', key)
    if kind == 'CIFARPreActResNet':
        return key.replace('.shortcut.', '.shortcut.0.')
    if kind == 'ResNet_CIFAR':
        return key.replace('.downsample.', '.shortcut.')
    if kind == 'CIFARShuffleNetV2':
        parts = key.split('.')
        if parts[0] == 'conv1':
            return f'{parts[1]}1.{parts[2]}'
        if parts[1] == '3':
            return f'{parts[2]}2.{parts[3]}'
        _, stage, unit, branch, index, sort, leaf = parts
        number = int(index) + (3 if branch == 'branch2' and unit == '0' else 1)
        return f'layer{int(stage) + 1}.{unit}.{sort}{number}.{leaf}'
    return key


def weight(key, shape):
    """Return the value, in float64, that a published weight had for the recording."""
    if key.endswith('num_batches_tracked'):
        return torch.ones((), dtype=torch.int64)
    # numpy promises that the numbers of RandomState never change.
    u = torch.from_numpy(np.random.RandomState(crc32(key.encode())).uniform(-1, 1, tuple(shape)))
    if len(shape) > 1:
        return u * (6 / u[0].numel()) ** 0.5
    return 1 + u / 2 if key.endswith(('running_var', 'weight')) else u / 2


def pictures(size):
    """Two pictures."""
    return torch.from_numpy(np.random.RandomState(0).standard_normal((2, 3, size, size)))


def digest(weights):
    """Identify a state dict by its keys and shapes."""
    lines = sorted(f'{key} {tuple(value.shape)}' for key, value in weights.items())
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:12]
