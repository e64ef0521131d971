"""The records that a check fills in; all plain, for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kd_plugins.teachers.agreement import Agreement

#: From what must be mended to what is good to know.
LEVELS = ('error', 'warning', 'note')


@dataclass(frozen=True)
class Finding:
    """Something that a user should know before training.

    Args:
        level: ``'error'`` where the training would be wrong, ``'warning'``
            where it may be, ``'note'`` otherwise.
        what: What was seen.
        change: What to change.
    """

    level: str
    what: str
    change: str = ''


@dataclass
class Network:
    """The student or the teacher."""

    type: str
    source: str
    weights: str
    parameters: int
    trainable: int
    multiply_adds: int | None  # for one picture of the batch
    input_shape: list[int]
    classes: int | None
    mean: list[float] | None
    std: list[float] | None
    swaps_channels: bool


@dataclass
class Read:
    """One argument of a term: where it comes from and what came."""

    argument: str
    source: str
    what: str


@dataclass
class Term:
    """One distillation term on the first batch.

    ``gradient`` is the norm of its gradient with respect to the student's
    parameters, weight included; None where it has none.
    """

    name: str
    type: str
    weight: float | None
    reads: list[Read] = field(default_factory=list)
    value: float | None = None
    gradient: float | None = None


@dataclass
class Wired:
    """Two maps that a term compares: their modules, their shapes (C, H, W) of the first batch.

    ``compared`` is the height and width at which they are; ``learned`` are the parameters
    of the layers between them.
    """

    term: str
    student: str
    student_shape: list[int]
    teacher: str
    teacher_shape: list[int]
    compared: list[int]
    learned: int


@dataclass
class Group:
    """A parameter group of the optimizer."""

    tensors: int
    parameters: int
    lr: float
    weight_decay: float


@dataclass
class Data:
    """What the training is fed, and how it steps."""

    dataset: str
    samples: int
    classes: int | None
    batch_size: int
    accumulation: int
    base_batch_size: int | None  # what auto_scale_lr says the learning rate is meant for
    scales_lr: bool
    iterations_per_epoch: int
    epochs: float
    lr: float | None = None  # the optimizer's, before the factors of parts of the model


@dataclass
class Cost:
    """What the training takes, from the iterations that were run.

    ``memory_of`` says of what ``peak_memory_mib`` is the peak; check's own needs
    are no part of it where the system can tell them apart.
    """

    device: str
    seconds_per_iteration: float
    teacher_share: float
    seconds_in_all: float
    peak_memory_mib: int
    memory_of: str


@dataclass
class Sureness:
    """How sure a classifier is of some pictures, on average.

    ``confidence`` is the largest probability, ``entropy`` in nats, and ``one_class``
    the share of the pictures that get the class which most of them get.
    """

    samples: int
    confidence: float
    entropy: float
    one_class: float


@dataclass
class Calibration:
    """Of each term, the ratio of its gradient's norm to the task's, and a weight for another.

    ``ratios`` are those of the batches in their order, of terms at their full
    strength; ``proposed`` are the weights with which their median would be ``wanted``,
    and ``line`` is the config's line that sets them.
    """

    wanted: float
    iterations: int
    ratios: dict[str, list[float]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    proposed: dict[str, float] = field(default_factory=dict)
    line: str = ''


@dataclass
class Report:
    """Everything that a check found out; what it did not get to is None.

    ``operators`` says with which operators ``mmcv.ops`` works, where the training has
    imported it. ``teacher_metrics`` are the teacher's on the input with which it teaches,
    ``teacher_own_metrics`` on its own preprocessing, where that makes another input
    of the same samples. Where it is made of several checkpoints, ``teacher_members``
    has the name and the metrics of each. ``store`` is the folder of what the teacher
    says, and ``stored`` how far that of the first batch is from what it says now.
    ``unlabelled`` is how sure the teacher is of the training's pictures without labels,
    and ``labelled`` of the validation's, where there are such pictures. ``snapshot`` says
    that the student itself will be the teacher, and is not yet. ``alone_metrics`` are
    those of a student that was trained alone, on the samples of ``teacher_metrics``.
    ``unreached`` names the trainable parameters that no loss of the first batch reaches.
    """

    config: str
    distils: bool = False
    snapshot: bool = False
    store: str | None = None
    stored: list[Agreement] = field(default_factory=list)
    student: Network | None = None
    teacher: Network | None = None
    teacher_metrics: dict[str, float] = field(default_factory=dict)
    teacher_own_metrics: dict[str, float] = field(default_factory=dict)
    teacher_members: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    teacher_samples: int = 0
    unlabelled: Sureness | None = None
    labelled: Sureness | None = None
    alone_metrics: dict[str, float] = field(default_factory=dict)
    data: Data | None = None
    losses: dict[str, float] = field(default_factory=dict)
    task_gradient: float | None = None
    terms: list[Term] = field(default_factory=list)
    wired: list[Wired] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)
    optimizer: str = ''
    groups: list[Group] = field(default_factory=list)
    calibration: Calibration | None = None
    cost: Cost | None = None
    operators: str | None = None
    findings: list[Finding] = field(default_factory=list)

    def add(self, level: str, what: str, change: str = '') -> None:
        """Add a finding."""
        self.findings.append(Finding(level, what, change))
        self.findings.sort(key=lambda finding: LEVELS.index(finding.level))

    @property
    def ok(self) -> bool:
        """Whether a training would do what its config says."""
        return not any(finding.level == 'error' for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        stored = [each._asdict() for each in self.stored]
        return dict(asdict(self), ok=self.ok, stored=stored)
