"""A few small scenes of digits, and what makes a config of the scenes train on them."""

from pathlib import Path

from kd_plugins.datasets.digit_scenes import make_scenes
from kd_plugins.datasets.scene_drawing import SceneSettings


def few_scenes(folder, train=8, val=4, batch_size=4):
    """Draw them once; return options for ``--cfg-options`` or ``merge_from_dict``."""
    settings = SceneSettings(train=train, val=val, size=64, side=(16, 32), clutter=2)
    root = make_scenes(Path(folder).resolve() / f'scenes_{train}_{val}', settings)
    options = {
        'train_dataloader.batch_size': batch_size,
        'val_evaluator.ann_file': f'{root}/annotations/val.json',
        # Where nothing is found, mmdet gives no metric at all, and there is no best.
        'model.architecture.test_cfg.score_thr': 0.0,
    }
    for loader in ('train', 'val'):
        options[f'{loader}_dataloader.dataset.data_root'] = f'{root}/'
        options[f'{loader}_dataloader.dataset.pipeline.1.scale'] = (64, 64)
    return options
