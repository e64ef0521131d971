"""Large detectors teach small ones to find handwritten digits.

    python tools/demo_detection.py

Draws the scenes. Then, for a dense detector (GFL) and a two-stage one (Faster R-CNN),
trains a teacher once and the same small student over several seeds: alone, and with
the methods for its kind (LD, BCKD and BCKD with the teacher's answers stored; DKD and
ReviewDKD). All run on the upstream
runner and are scored by mmdet's COCO metric. Prints a table for each, and draws what
each of them finds.
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import torch
from demo_common import CONFIGS, student_runs, train
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from mmengine.config import Config
from rich.table import Table
from torchvision.ops import box_iou

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line
from kd_plugins.compat import chatter
from kd_plugins.datasets.digit_scenes import make_scenes
from kd_plugins.experiments.results import Result, Run, load_config
from kd_plugins.experiments.summary import gain, over_seeds, said
from kd_plugins.experiments.timing import duration
from kd_plugins.inspect.quiet import silence


@dataclass(frozen=True)
class Group:
    """A kind of detector: one teacher, and one student, alone and taught by several methods.

    Args:
        name: Of the detector.
        teacher: The config that trains the teacher.
        student: The config that trains the student alone.
        taught: Of each method, the config that trains the student with the teacher.
        figure: File name of the drawing.
    """

    name: str
    teacher: str
    student: str
    taught: Mapping[str, str]
    figure: str

    @property
    def teacher_run(self) -> Run:
        """The run that leaves the teacher where the students look for it."""
        config = str(CONFIGS / self.teacher)
        return Run(f'{self.name} teacher', config, 0, f'work_dirs/{Path(config).stem}')

    @property
    def alone(self) -> str:
        """What runs of the student alone are called."""
        return f'{self.name} student alone'

    def row(self, name: str) -> str:
        """What a run is called within the group's own table."""
        return name.removeprefix(f'{self.name} ')


GROUPS = {
    'gfl': Group(
        'GFL',
        'vanilla/gfl_scenes_teacher.py',
        'vanilla/gfl_scenes_student.py',
        {
            'LD': 'ld/ld_scenes.py',
            'BCKD': 'bckd/bckd_scenes.py',
            'BCKD, stored teacher': 'bckd/bckd-stored_scenes.py',
        },
        'scenes.png',
    ),
    'faster-rcnn': Group(
        'Faster R-CNN',
        'vanilla/faster-rcnn_scenes_teacher.py',
        'vanilla/faster-rcnn_scenes_student.py',
        {
            'DKD': 'dkd/dkd_faster-rcnn_scenes.py',
            'ReviewDKD': 'reviewkd/reviewdkd_faster-rcnn_scenes.py',
        },
        'scenes_faster-rcnn.png',
    ),
}
#: Scenes that are drawn: the first three of the validation set with five digits.
SHOWN = (4, 7, 11)
#: Boxes are drawn, and counted, from this score on.
SCORE = 0.4


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description=__doc__.split('\n')[0],
        epilog='example: python tools/demo_detection.py --detectors gfl --seeds 0 1',
    )
    command_line.add_runs_options(parser, range(3), 'work_dirs/demo_detection')
    parser.add_argument(
        '--detectors', nargs='+', choices=GROUPS, default=list(GROUPS), help='by default both'
    )
    chatter.add_argument(parser)
    return parser.parse()


def summarise(group: Group, results: dict[str, list[Result]], teacher: Result) -> Table:
    """Return the table of all methods."""
    seeds = len(next(iter(results.values())))
    table = Table(title=f'{group.name} on digit scenes, COCO box AP in %, {over_seeds(seeds)}')
    for column in ('', 'AP', 'AP50', 'AP75', 'gain', 'parameters', 's/run'):
        table.add_column(column, justify='right' if column else 'left')
    alone = [result.last for result in results[group.alone]]
    for name, runs in {'teacher': [teacher], **results}.items():
        last = [run.last for run in runs]
        columns = [last, *(last_of(runs, f'coco/bbox_mAP_{iou}') for iou in (50, 75))]
        table.add_row(
            group.row(name),
            *(f'{c[0]:.2f}' if name == 'teacher' else said(c) for c in columns),
            '' if name in ('teacher', group.alone) else gain(last, alone),
            f'{runs[0].parameters:,}',
            f'{statistics.mean(run.seconds for run in runs):.0f}',
            end_section=name == 'teacher',
        )
    return table


def last_of(runs: list[Result], metric: str) -> list[float]:
    """Return a metric of the last validations, in percent."""
    return [100 * run.metrics[metric][-1] for run in runs]


def detector(group: Group, run: Run) -> object:
    """Build the stock detector of a run with the checkpoint that it left.

    Students taught or not leave the same keys, so that upstream's own loader
    reads them with the config of the student alone.
    """
    from mmdet.apis import init_detector

    config = run.config if run == group.teacher_run else str(CONFIGS / group.student)
    checkpoint = (Path(run.work_dir) / 'last_checkpoint').read_text()
    return init_detector(config, checkpoint, palette='random', device='cpu')


def draw(group: Group, runs: dict[str, Run], path: Path) -> None:
    """Draw some scenes as annotated and as found by every detector."""
    from mmdet.apis import inference_detector
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    dataset = DATASETS.build(load_config(group.teacher_run).val_dataloader.dataset)
    scenes = [dataset.get_data_info(i) for i in SHOWN]
    figure, axes = plt.subplots(
        len(scenes), len(runs) + 1, figsize=(2.1 * (len(runs) + 1), 2.2 * len(scenes)),
        layout='constrained', squeeze=False,
    )  # fmt: skip
    for column, name in enumerate(['annotated', *runs]):
        axes[0, column].set_title(group.row(name), fontsize=10)
        model = detector(group, runs[name]) if name in runs else None
        for axis, scene in zip(axes[:, column], scenes, strict=True):
            if model is None:
                boxes = np.array([o['bbox'] for o in scene['instances']])
                labels = np.array([o['bbox_label'] for o in scene['instances']])
            else:
                found = inference_detector(model, scene['img_path']).pred_instances.numpy()
                found = found[found.scores > SCORE]
                boxes, labels = found.bboxes, found.labels
            show(axis, plt.imread(scene['img_path']), boxes, labels, scene['instances'])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def show(
    axis: Axes, picture: np.ndarray, boxes: np.ndarray, labels: np.ndarray, truth: list[dict]
) -> None:
    """Draw boxes over a picture: solid where a digit is right, dashed where it is not."""
    axis.imshow(picture)
    axis.set_axis_off()
    overlaps = box_iou(_boxes(boxes), _boxes([o['bbox'] for o in truth]))
    for (x1, y1, x2, y2), label, overlap in zip(boxes, labels, overlaps, strict=True):
        right = any(o['bbox_label'] == label and overlap[i] >= 0.5 for i, o in enumerate(truth))
        axis.add_patch(
            Rectangle(
                (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor='white' if right else 'red',
                linestyle='-' if right else '--', linewidth=1.2,
            )
        )  # fmt: skip
        axis.text(
            x1, y1, str(label), color='black' if right else 'white', fontsize=7, va='bottom',
            bbox=dict(facecolor='white' if right else 'red', edgecolor='none', pad=0.6),
        )  # fmt: skip


def _boxes(values: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64).reshape(-1, 4)


def main() -> None:
    """Draw the data, train, print, draw the results."""
    args = parse_args()
    chatter.hush(unless=args.verbose)
    console = command_line.console()
    start = time.monotonic()
    log = args.work_dir / 'output.log'
    groups = [GROUPS[name] for name in args.detectors]
    teachers = [group.teacher_run for group in groups]
    root = Path(Config.fromfile(teachers[0].config).data_root)
    console.print(f'Drawing the scenes into {root} (once; later runs reuse them).')
    make_scenes(root)
    students = {group.alone: group.student for group in groups}
    methods = {name: config for group in groups for name, config in group.taught.items()}
    console.print(
        'Training the teachers (once; later runs reuse them) and the students alone, then the '
        f'students with their teachers: {"; ".join(methods)}.'
    )
    alone = student_runs(students, args.seeds, args.work_dir)
    taught = student_runs(methods, args.seeds, args.work_dir)
    done = train([*teachers, *alone], args.jobs, log, console, taught)
    runs = [*alone, *taught]
    for group in groups:
        names = [group.alone, *group.taught]
        results = {name: [done[run] for run in runs if run.name == name] for name in names}
        firsts = {name: next(run for run in runs if run.name == name) for name in names}
        # mmdet and pycocotools report every file that they read, and warn of mmdet itself.
        with silence():
            shown = {'teacher': group.teacher_run, **firsts}
            draw(group, shown, args.work_dir / group.figure)
        console.print(summarise(group, results, done[group.teacher_run]), soft_wrap=False)
    console.print(
        'gain: in AP over the student alone; "?" where it is within two standard errors of zero.\n'
        's/run: seconds in iterations; loading and saving come on top.'
    )
    figures = ' and '.join(str(args.work_dir / group.figure) for group in groups)
    console.print(
        f'wrote {figures}; logs and checkpoints are in {args.work_dir}; '
        f'{duration(time.monotonic() - start)} in all'
    )


if __name__ == '__main__':
    command_line.start(main)
