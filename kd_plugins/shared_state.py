"""State that checkpoints keep and that nothing else of upstream sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class SharedState(nn.Module):
    """Tensors that are saved and loaded with a model, and are no part of it otherwise.

    They are no parameters and no buffers, so that optimizers, averages and DDP leave
    them alone. Copies of the model (EMA's is one) share them; a copy neither saves nor
    moves them. Subclasses say which they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_copy = False

    def kept(self) -> Mapping[str, Tensor]:
        """Return the tensors by name; loading writes into them."""
        raise NotImplementedError

    def loaded(self) -> None:
        """Is called when tensors have been loaded."""

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedState:
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        clone.__dict__.update(self.__dict__, is_copy=True)
        return clone

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if not self.is_copy:
            for name, tensor in self.kept().items():
                destination[prefix + name] = tensor.detach()

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
        if self.is_copy:
            return
        kept = self.kept()
        found = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        unexpected_keys += [key for key in found if key.removeprefix(prefix) not in kept]
        for name, tensor in kept.items():
            value = found.get(prefix + name)
            if value is None:
                missing_keys.append(prefix + name)
            elif value.shape != tensor.shape:
                error_msgs.append(
                    f'size mismatch for {prefix + name}: copying a param with shape {value.shape} '
                    f'from checkpoint, the shape in current model is {tensor.shape}.'
                )
            else:
                tensor.data.copy_(value)
        self.loaded()
