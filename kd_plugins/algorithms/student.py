"""A model that to the outside is its student."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModel
from torch import Tensor, nn

from kd_plugins.files.matching import MMRAZOR_STUDENT, TERMS, WholeLoads, without_mmrazors_names
from kd_plugins.networks import initialisations

#: Names that the algorithm needs for itself.
_RESERVED = ('architecture', 'student', 'teacher', 'distiller')
#: What both share: the same objects, so that neither can differ from the other.
_SHARED = (
    '_parameters',
    '_buffers',
    '_non_persistent_buffers_set',
    '_state_dict_hooks',
    '_state_dict_pre_hooks',
    '_load_state_dict_pre_hooks',
    '_load_state_dict_post_hooks',
)


class _Finishing(ABCMeta):
    """Tells a model when its constructor, subclasses' included, is through."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        model = super().__call__(*args, **kwargs)
        model.__dict__['_finished'] = True
        return model


class StudentModel(BaseModel, metaclass=_Finishing):
    """A model whose modules, parameters and attributes are its student's.

    Upstream finds by name what it trains, copies, freezes, switches and saves:
    layer-wise learning rates begin with ``backbone.``, hooks set attributes on
    ``runner.model``, checkpoints have the student's keys. So the children of the
    student are the children of this model, and its parameters and buffers are
    the student's own. The student itself, ``architecture``, is no part of the
    module tree. A subclass may add ``distiller``, which comes last.

    An attribute that is set on the model reaches the student, unless it is the
    model's own: an attribute of its class, or one that its constructor has set.

    Args:
        student: The student.
        init_cfg: What the student's initialisation begins with (pretrained
            weights come last, as in mmengine).
        load_from_except: Patterns of the student's weights that a training may
            leave out of a checkpoint; see :class:`SingleTeacherDistill`.

    Raises:
        ValueError: If the student has a child whose name is taken, or if two
            places give it pretrained weights.
    """

    def __init__(
        self,
        student: BaseModel,
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        load_from_except: Sequence[str] = (),
    ) -> None:
        taken = [name for name in _RESERVED if name in {*student._modules, *student._parameters}]
        if taken:
            raise ValueError(
                f'model.architecture: {type(student).__name__} has a part called {taken[0]!r}, '
                'which is a name of the distillation: give it another name, or distil the network '
                'inside of it.'
            )
        if isinstance(load_from_except, str) or not all(
            isinstance(pattern, str) for pattern in load_from_except
        ):
            raise ValueError(
                f'model.load_from_except={load_from_except!r} is not a list of patterns of the '
                "student's weights, such as ['head.*']."
            )
        super().__init__(student.data_preprocessor)
        _add_init_cfg(student, init_cfg)
        whole = WholeLoads(student, load_from_except, 'model.load_from_except')
        # Past nn.Module.__setattr__, which would make it part of the module tree.
        self.__dict__.update(architecture=student, _whole_loads=whole, _adopted=set())
        self.__dict__.update({name: vars(student)[name] for name in _SHARED})
        self.__dict__['_version'] = student._version
        del self._modules['data_preprocessor']
        self._adopt()

    @property
    def student(self) -> BaseModel:
        """The student; ``architecture`` is mmrazor's name for it."""
        return self.architecture

    def _adopt(self) -> None:
        """Bring the model's children up to date with the student's."""
        theirs, ours = self.architecture._modules, self._modules
        for name in self._adopted - theirs.keys():
            del ours[name]
        for name, child in theirs.items():
            # Upstream replaces children while it goes through them.
            if name not in ours or ours[name] is not child:
                ours[name] = child
        if self._adopted != theirs.keys():
            for name in [name for name in ours if name not in theirs]:
                ours[name] = ours.pop(name)
            self.__dict__['_adopted'] = set(theirs)

    def _is_own(self, name: str) -> bool:
        if not self.__dict__.get('_finished'):
            return True
        student = self.architecture
        if any(name in part for part in (student._modules, student._parameters, student._buffers)):
            return False
        return name in self.__dict__ or name in self._modules or hasattr(type(self), name)

    def __getattr__(self, name: str) -> Any:
        """Look on the student for what is not here, as upstream hooks expect."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            student = self.__dict__.get('architecture')
            if student is None:
                raise
            return getattr(student, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set on the student what is not the model's own, as upstream hooks expect."""
        if name in ('architecture', 'student'):
            raise AttributeError(
                f'the {name} of a distillation cannot be exchanged, because optimizers and '
                'recorders hold its parts: build another model.'
            )
        if self._is_own(name):
            super().__setattr__(name, value)
        else:
            setattr(self.architecture, name, value)
            self._adopt()

    def __delattr__(self, name: str) -> None:
        if self._is_own(name):
            super().__delattr__(name)
        else:
            delattr(self.architecture, name)
            self._adopt()

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add or replace a child, as upstream does where it exchanges batch norms."""
        if self._is_own(name) or name == TERMS.removesuffix('.'):
            super().add_module(name, module)
        else:
            self.architecture.add_module(name, module)
            self._adopt()

    def train(self, mode: bool = True) -> StudentModel:
        """Set the mode as the student does it: it may keep parts frozen."""
        self._adopt()
        self.training = mode
        self.architecture.train(mode)
        for name, child in self._modules.items():
            if name not in self._adopted and child is not None:
                child.train(mode)
        return self

    def init_weights(self) -> None:
        """Initialise the student as if it were alone."""
        self._whole_loads.initialised = True
        self.architecture.init_weights()

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor', **kwargs: Any
    ) -> Any:
        """Return what the student returns."""
        return self.architecture(inputs, data_samples, mode=mode, **kwargs)

    def val_step(self, data: Any) -> list:
        """Predict as the student does."""
        return self.architecture.val_step(data)

    def test_step(self, data: Any) -> list:
        """Predict as the student does."""
        return self.architecture.test_step(data)

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> StudentModel:
        self.architecture._apply(fn, *args, **kwargs)
        for name, child in self._modules.items():
            if name not in self._adopted and child is not None:
                child._apply(fn, *args, **kwargs)
        return self

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._adopt()
        self.architecture._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take the student's keys, bare or below ``architecture.``, through its own loading."""
        if any(key.startswith(prefix + MMRAZOR_STUDENT) for key in state_dict):
            bare = {k.removeprefix(prefix): v for k, v in state_dict.items()}
            state_dict.clear()
            for key, value in without_mmrazors_names(bare).items():
                state_dict[prefix + key] = value
        self.architecture._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        # To the student alone the model's other children are unknown.
        others = tuple(f'{prefix}{name}.' for name in self._modules if name not in self._adopted)
        unexpected_keys[:] = [key for key in unexpected_keys if not key.startswith(others)]


def _add_init_cfg(
    student: BaseModel, init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
) -> None:
    """Let the student begin with what the model's ``init_cfg`` says, then with its own."""
    inner, outer = initialisations(student.init_cfg), initialisations(init_cfg)
    if not outer:
        student.init_cfg = inner[0] if len(inner) == 1 else inner or None
        return
    if student.is_init:
        raise ValueError(
            f'model.init_cfg={init_cfg!r} comes too late for a student that is built and '
            'initialised: leave it out, or give model.architecture as a config.'
        )
    if all(any(each['type'] == 'Pretrained' for each in cfgs) for cfgs in (outer, inner)):
        raise ValueError(
            f'model.init_cfg={init_cfg!r} and model.architecture (init_cfg={student.init_cfg!r}) '
            'both give the student pretrained weights: keep one of them.'
        )
    both = [*outer, *inner]
    student.init_cfg = both[0] if len(both) == 1 else both
