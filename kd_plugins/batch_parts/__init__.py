"""Parts that change a batch between the preprocessor and the networks."""

from kd_plugins.batch_parts.base import BatchPart, build_batch_parts, record_parts
from kd_plugins.batch_parts.recursive_mix import RecursiveMix, random_box

__all__ = ['BatchPart', 'RecursiveMix', 'build_batch_parts', 'random_box', 'record_parts']
