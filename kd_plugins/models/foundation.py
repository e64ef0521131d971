"""Foundation models of timm and Hugging Face as backbones that give one map, for teachers.

Both build the network that the weights were saved from, classifier, text or projection
included, so that every weight of the file has its place. What is run is the part that makes
features of pictures, and of tokens its patches as a map, also of pictures that are no square.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.files.matching import Mismatch
from kd_plugins.registry import MODELS

#: As many class and register tokens as may come before those of the patches.
MOST_EXTRA_TOKENS = 8
_WEIGHTS = ('model.safetensors', 'model.safetensors.index.json')
#: Settings of preprocessors of Hugging Face's by which more is done than to scale and shift RGB.
_OTHERWISE = ('do_flip_channel_order', 'offset', 'rescale_offset')


class FoundationBackbone(BaseModule):
    """Base of the backbones around networks of other packages.

    Attributes:
        model: The whole network, whose weights a file holds.
        normalises: The mean and deviation of RGB pixels from 0 to 255 that it was trained
            with, as a data preprocessor takes them; None where nothing says them.
    """

    model: nn.Module
    normalises: dict[str, Any] | None = None

    @property
    def img_size(self) -> tuple[int, int] | None:
        """Height and width of the pictures that its positions are laid out for."""
        raise NotImplementedError

    def _take_normalisation(
        self, mean: Sequence[float], std: Sequence[float], white: float = 255.0
    ) -> None:
        """Note mean and deviation, whose unit is as many of the 255 steps of a pixel."""
        scaled = {key: [white * x for x in each] for key, each in dict(mean=mean, std=std).items()}
        self.normalises = dict(scaled, to_rgb=True)


@MODELS.register_module()
class TimmFeatures(FoundationBackbone):
    """A network of timm; it gives the map of its last layer behind the last norm.

    In a config ``teacher=dict(type='mmpretrain.ImageClassifier', backbone=dict(
    type='kd_plugins.TimmFeatures', model_name='vit_small_patch14_dinov2.lvd142m',
    dynamic_img_size=True))``, and its file as ``teacher_ckpt``. The normalisation is what timm
    says of these weights. mmpretrain's ``TIMMBackbone`` gives the class token of a transformer,
    and throws the classifier away, for which its file then has too many weights.

    Args:
        model_name: The name by which ``timm.create_model`` knows it, with the tag of its weights.
        **kwargs: Its other arguments. A transformer takes pictures of other sizes with
            ``dynamic_img_size=True``.

    Raises:
        ImportError: Without timm.
        ValueError: If timm has no such network, none of its features, or says that the weights
            are of a network with another activation.
    """

    def __init__(self, model_name: str, init_cfg: Any = None, **kwargs: Any) -> None:
        super().__init__(init_cfg)
        try:
            import timm
        except ImportError as error:
            raise ImportError('TimmFeatures needs timm: pip install timm.') from error
        if kwargs.get('pretrained'):
            right = "no such setting, and the file of the weights as the teacher's teacher_ckpt"
            raise checks.refuse('TimmFeatures.pretrained', kwargs['pretrained'], right)
        if not timm.is_model(model_name.split('.')[0]):
            right = "a name of timm.list_models(), such as 'vit_small_patch14_dinov2.lvd142m'"
            raise checks.refuse('TimmFeatures.model_name', model_name, right)
        try:
            self.model = timm.create_model(model_name, **{'pretrained': False, **kwargs})
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f'TimmFeatures.model_name={model_name!r} with {kwargs} is no network of timm: '
                f'{checks.said(error)}; check the tag of the weights, and the other settings.'
            ) from error
        if not hasattr(self.model, 'forward_intermediates'):
            raise ValueError(
                f'TimmFeatures.model_name={model_name!r} is a {type(self.model).__name__}, of '
                'which this timm gives no features (forward_intermediates): take another network, '
                'or a newer timm.'
            )
        says = self.model.pretrained_cfg
        if 'QuickGELU' in str(says.get('notes')) and 'quickgelu' not in model_name:
            raise checks.refuse(
                'TimmFeatures.model_name',
                model_name,
                f'{model_name.replace("_clip_", "_clip_quickgelu_")!r}: these weights were trained '
                'with another activation, QuickGELU, than a network of this name has',
            )
        self._take_normalisation(says['mean'], says['std'])

    @property
    def img_size(self) -> tuple[int, int] | None:
        """See :class:`FoundationBackbone`."""
        return getattr(getattr(self.model, 'patch_embed', None), 'img_size', None)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return its map, (N, C, H, W)."""
        # The last norm of a Hiera belongs to its classifier.
        norm = not type(self.model).__name__.startswith('Hiera')
        (features,) = self.model.forward_intermediates(
            x, indices=1, norm=norm, intermediates_only=True
        )
        return (features,)


@MODELS.register_module()
class HuggingFaceFeatures(FoundationBackbone):
    """The network of a folder of Hugging Face; it gives its last hidden state as a map.

    In a config ``teacher=dict(type='mmpretrain.ImageClassifier', backbone=dict(
    type='kd_plugins.HuggingFaceFeatures', folder='weights/dinov2-small'))``. The folder has
    ``config.json``, ``model.safetensors`` and, for the normalisation,
    ``preprocessor_config.json``, as ``save_pretrained`` and a download write them; nothing is
    fetched. Its weights are the teacher's where no ``teacher_ckpt`` names others. Of a
    model of pictures and texts, such as CLIP, the part for pictures is run.

    Args:
        folder: The folder.

    Raises:
        ImportError: Without transformers, or with one that does not know this torch.
        FileNotFoundError: If the folder has no ``config.json``.
        ValueError: If its network makes no features of pictures.
    """

    def __init__(self, folder: str, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.folder = folder
        if not Path(folder, 'config.json').is_file():
            raise FileNotFoundError(
                f'HuggingFaceFeatures.folder={folder!r} has no config.json: give the folder of a '
                'downloaded model, or what save_pretrained wrote.'
            )
        self.kind, config = _kind_of(folder)
        self._take(self.kind(config))
        self._read_normalisation()

    def _take(self, whole: nn.Module) -> None:
        """Keep the whole network, and remember the part that makes features of pictures."""
        self.model = whole.float()
        name = next((n for n in ('vision_model', 'vision_tower') if hasattr(whole, n)), None)
        base = getattr(whole, 'base_model_prefix', '')
        if name is None and base and hasattr(whole, base):
            name = base
        self._part = name or ''
        config = self.features.config
        if getattr(self.features, 'main_input_name', 'pixel_values') != 'pixel_values':
            raise ValueError(
                f'HuggingFaceFeatures.folder={self.folder!r} has a {type(whole).__name__}, which '
                'takes no pictures: give a model of pictures.'
            )
        patch = getattr(config, 'patch_size', None)
        sides = {*patch} if isinstance(patch, (list, tuple)) else {patch}
        self._patch = sides.pop() if len(sides) == 1 else None

    @property
    def features(self) -> Any:
        """The part of the network that makes features of pictures."""
        return self.model.get_submodule(self._part)

    def _read_normalisation(self) -> None:
        path = Path(self.folder, 'preprocessor_config.json')
        says = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
        mean, std = says.get('image_mean'), says.get('image_std')
        if not (mean and std and says.get('do_normalize', True)) or any(map(says.get, _OTHERWISE)):
            return
        if says.get('include_top'):
            # EfficientNet's input is divided by the deviation a second time.
            std = [x * x for x in std]
        factor = says.get('rescale_factor', 1 / 255) if says.get('do_rescale', True) else 1.0
        self._take_normalisation(mean, std, 1 / factor)

    @property
    def img_size(self) -> tuple[int, int] | None:
        """See :class:`FoundationBackbone`."""
        size = getattr(self.features.config, 'image_size', None) if self._patch else None
        return (size, size) if isinstance(size, int) else None

    def load_folder(self, path: str) -> Mismatch:
        """Load the weights of a folder by Hugging Face's own rules; return what does not fit.

        Args:
            path: The folder. Files that are pickles are not read.

        Raises:
            FileNotFoundError: If it has no ``model.safetensors``.
        """
        if not any(Path(path, name).is_file() for name in _WEIGHTS):
            raise FileNotFoundError(
                f'model.teacher_ckpt={path!r} has no model.safetensors: convert its weights by '
                'save_pretrained(FOLDER, safe_serialization=True).'
            )
        loaded, info = self.kind.from_pretrained(
            path, local_files_only=True, use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
        self._take(loaded)
        reshaped = [
            f'{each[0]} is {tuple(each[1])} in the file and {tuple(each[2])} in the teacher'
            for each in info['mismatched_keys']
        ]
        return Mismatch(
            tuple(sorted(info['missing_keys'])), tuple(sorted(info['unexpected_keys'])),
            tuple(reshaped),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return its map, (N, C, H, W)."""
        more = {}
        if 'interpolate_pos_encoding' in inspect.signature(self.features.forward).parameters:
            more['interpolate_pos_encoding'] = True
        hidden = getattr(self.features(pixel_values=x, **more), 'last_hidden_state', None)
        if hidden is None:
            raise ValueError(
                f'HuggingFaceFeatures.folder={self.folder!r} has a {type(self.features).__name__}, '
                'which gives no last_hidden_state: give the folder of the network inside of it.'
            )
        return (hidden if hidden.dim() == 4 else self._as_map(hidden, x),)

    def _as_map(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Return the patches of tokens, (N, L, C), as a map; other tokens come before them."""
        grid = tuple(side // (self._patch or side) for side in x.shape[2:])
        extra = tokens.shape[1] - grid[0] * grid[1]
        if not self._patch or not 0 <= extra <= MOST_EXTRA_TOKENS:
            raise ValueError(
                f'HuggingFaceFeatures.folder={self.folder!r} gives {tokens.shape[1]} tokens of '
                f'pictures of {tuple(x.shape[2:])}, which are not one for each patch of '
                f'{self._patch} pixels and at most {MOST_EXTRA_TOKENS} others: take a network of '
                'plain patches, or one that gives maps.'
            )
        return tokens[:, extra:].transpose(1, 2).unflatten(2, grid)


def _kind_of(folder: str) -> tuple[Any, Any]:
    """Return the class that the weights of a folder were saved from, and its config."""
    try:
        import transformers

        if not transformers.utils.is_torch_available():
            raise ImportError('it finds no torch that it can use')
    except Exception as error:  # of other torches it has other errors
        raise ImportError(
            f'HuggingFaceFeatures needs transformers that knows torch {torch.__version__} '
            f'({checks.said(error)}): pip install transformers, and with torch before 2.4 '
            "'transformers<4.49'."
        ) from error
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    named = [getattr(transformers, name, None) for name in config.architectures or ()]
    if len(named) != 1 or named[0] is None:
        raise ValueError(
            f'HuggingFaceFeatures.folder={folder!r} says architectures={config.architectures!r}, '
            f'of which transformers {transformers.__version__} has no class: give the folder of a '
            'model that it has.'
        )
    return named[0], config
