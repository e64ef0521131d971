"""Train a config on the upstream runner.

    python tools/train.py configs/dkd/dkd_digits.py

The arguments are mmpretrain's and mmdet's. ``tools/dist_train.sh`` starts it on
several processes, with or without GPUs, ``tools/slurm_train.sh`` on a cluster.
"""

import argparse

from mmengine.config import Config

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line, launch


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Train a config on the upstream runner.',
        epilog='example: python tools/train.py configs/dkd/dkd_digits.py',
    )
    launch.add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint, or from the latest one in the work directory',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--no-validate', action='store_true', help='do not validate')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by the batch size over auto_scale_lr's base batch size",
    )
    return parser.parse()


def apply(args: argparse.Namespace, cfg: Config) -> None:
    """Put what is special to training into the config."""
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        launch.enable_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise SystemExit(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config: the '
                'batch size that its learning rate is meant for.'
            )
        cfg.auto_scale_lr.enable = True
    if launch.restarted_with_a_checkpoint(cfg.work_dir, cfg.launcher):
        args.resume = 'auto'
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume


def main() -> None:
    """Train."""
    args = parse_args()
    cfg = launch.load_config(args)
    apply(args, cfg)
    with command_line.refusing(ValueError, FileNotFoundError):
        runner = launch.build_runner(cfg)
    with command_line.refusing():
        runner.train()


if __name__ == '__main__':
    main()
