"""Reading pictures, or saying which one cannot be read."""

from __future__ import annotations

from typing import Any

import mmcv
from mmcv.transforms import LoadImageFromFile as UpstreamLoadImageFromFile
from mmengine import fileio

from kd_plugins import checks
from kd_plugins.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImageFromFile(UpstreamLoadImageFromFile):
    """mmcv's transform, with one sentence that names a picture it cannot read.

    Upstream's error for an empty file does not name it, and of a JPEG or PNG
    that breaks off OpenCV returns what there is, the rest grey. The arguments
    and results are upstream's, but for one. A picture that is there already stays: mmpretrain's
    inferencers load it themselves, and know only upstream's transform to leave out.

    Args:
        channel_order: ``'bgr'`` as upstream, or ``'rgb'``, as datasets have it that keep
            their pictures in memory (CIFAR), and the preprocessors of their configs.
        **kwargs: Upstream's.

    Raises:
        ValueError: If the file is missing, empty, broken off or no picture;
            with ``ignore_empty=True`` the result is None instead.
    """

    def __init__(self, channel_order: str = 'bgr', **kwargs: Any) -> None:
        name = f'{type(self).__name__}.channel_order'
        self.channel_order = checks.one_of(name, channel_order, ('bgr', 'rgb'))
        super().__init__(**kwargs)

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Return the results with ``img``, ``img_shape`` and ``ori_shape``."""
        if 'img' in results and 'img_path' not in results:
            return results
        path = results['img_path']
        try:
            content = fileio.get(path, backend_args=self.backend_args)
            why = complaint(content)
            picture = None
            if why is None:
                picture = mmcv.imfrombytes(
                    content,
                    flag=self.color_type,
                    channel_order=self.channel_order,
                    backend=self.imdecode_backend,
                )
        except Exception as error:
            why, picture = checks.said(error), None
        if picture is None:
            if self.ignore_empty:
                return None
            raise ValueError(
                f'the picture {str(path)!r} cannot be read ({why or "not a picture"}): replace it, '
                'or take it out of the dataset.'
            )
        if self.to_float32:
            picture = picture.astype('float32')
        results.update(img=picture, img_shape=picture.shape[:2], ori_shape=picture.shape[:2])
        return results


def complaint(content: bytes) -> str | None:
    """Say what is wrong with the bytes of a picture, as far as they tell by themselves."""
    if not content:
        return 'the file is empty'
    if content[:2] == b'\xff\xd8':
        # Compressed data cannot hold an end marker by chance, what stands before can: a
        # thumbnail has one of its own.
        broken = content.find(b'\xff\xd9', _first_scan(content)) == -1
    else:
        broken = content[:4] == b'\x89PNG' and b'IEND' not in content
    return 'it breaks off' if broken else None


def _first_scan(jpeg: bytes) -> int:
    """Return where a JPEG's compressed data begin, or its length if they do not."""
    position = 2
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF:
        if jpeg[position + 1] == 0xDA:
            return position
        # A fill byte, or a segment that tells its length.
        fill = jpeg[position + 1] == 0xFF
        length = int.from_bytes(jpeg[position + 2 : position + 4], 'big')
        position += 1 if fill else 2 + length
    return len(jpeg)
