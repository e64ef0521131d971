"""A few scenes of digits as a user's own data: a COCO, a VOC and a YOLO folder."""

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

from kd_plugins.datasets.digit_scenes import make_scenes
from kd_plugins.datasets.scene_drawing import SceneSettings

CLASSES = list('0123456789')


def coco_folder(folder, train=8, val=4):
    make_scenes(folder, SceneSettings(train=train, val=val), lambda: None)
    return folder


def parts(source):
    """Yield of every picture: its part, path, size, and boxes with a class and corners."""
    for name in ('train', 'val'):
        content = json.loads((source / f'annotations/{name}.json').read_text())
        names = {each['id']: each['name'] for each in content['categories']}
        for image in content['images']:
            boxes = [
                (names[thing['category_id']], *thing['bbox'])
                for thing in content['annotations']
                if thing['image_id'] == image['id']
            ]
            yield name, source / name / image['file_name'], image, boxes


def voc_folder(source, folder, first=1):
    """Write the same as VOC does: corners that count from ``first``, in whole pixels."""
    for part in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (folder / part).mkdir(parents=True)
    lists = dict(train=[], val=[])
    for name, path, image, boxes in parts(source):
        stem = f'{name}_{path.stem}'
        shutil.copy(path, folder / 'JPEGImages' / f'{stem}{path.suffix}')
        root = ET.Element('annotation')
        size = ET.SubElement(root, 'size')
        for key in ('width', 'height'):
            ET.SubElement(size, key).text = str(image[key])
        for digit, x, y, w, h in boxes:
            thing = ET.SubElement(root, 'object')
            ET.SubElement(thing, 'name').text = digit
            box = ET.SubElement(thing, 'bndbox')
            corners = dict(xmin=x, ymin=y, xmax=x + w, ymax=y + h)
            for key, value in corners.items():
                ET.SubElement(box, key).text = str(round(value) + first)
        ET.indent(root)
        (folder / 'Annotations' / f'{stem}.xml').write_bytes(ET.tostring(root))
        lists[name].append(stem)
    for name, stems in lists.items():
        (folder / 'ImageSets/Main' / f'{name}.txt').write_text('\n'.join(stems) + '\n')
    return folder


def yolo_folder(source, folder):
    for name, path, image, boxes in parts(source):
        pictures, labels = (folder / kind / name for kind in ('images', 'labels'))
        for each in (pictures, labels):
            each.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, pictures / path.name)
        width, height = image['width'], image['height']
        lines = [
            f'{CLASSES.index(digit)} {(x + w / 2) / width:.8f} {(y + h / 2) / height:.8f} '
            f'{w / width:.8f} {h / height:.8f}'
            for digit, x, y, w, h in boxes
        ]
        (labels / f'{path.stem}.txt').write_text('\n'.join(lines) + '\n')
    (Path(folder) / 'data.yaml').write_text(f'train: images/train\nnames: {CLASSES}\n')
    return folder
