"""Parts that change a batch between the preprocessor and the networks.

What a module of this folder names in its ``__all__`` can be imported from here.
"""

from kd_plugins.registry import gather

__all__ = gather(__name__)
