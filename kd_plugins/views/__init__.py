"""Augmented pictures that come again, so that what is computed of them can be kept."""

from kd_plugins.views.dataset import RepeatableViews, number_if_repeatable, without_views
from kd_plugins.views.hashing import picture_hash, pipeline_hash, pipeline_text, samples_hash
from kd_plugins.views.mixing import SampleMix, check_no_batch_augments
from kd_plugins.views.sampling import SampleView, ViewNumbering, number_views
from kd_plugins.views.state import (
    check_one_pipeline,
    check_one_view,
    check_stateless,
    find_state,
    forget_pictures,
)

__all__ = [
    'ViewNumbering',
    'RepeatableViews',
    'SampleMix',
    'SampleView',
    'check_no_batch_augments',
    'check_one_pipeline',
    'check_one_view',
    'check_stateless',
    'find_state',
    'forget_pictures',
    'number_if_repeatable',
    'number_views',
    'picture_hash',
    'pipeline_hash',
    'pipeline_text',
    'samples_hash',
    'without_views',
]
