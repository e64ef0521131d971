"""The memory that training iterations take, without what check needs itself."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch

_CLEAR = Path('/proc/self/clear_refs')
_STATUS = Path('/proc/self/status')


class PeakMemory:
    """The peak from :meth:`start` on.

    On a GPU it is that of torch's tensors. Without one it is that of the whole
    process, whose peak Linux starts anew; elsewhere it is that since the process
    began.
    """

    def start(self) -> None:
        """Forget what was needed before."""
        gc.collect()
        self._anew = True
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
            # Free memory that the C library keeps would count as needed.
            ctypes.CDLL(None).malloc_trim(0)
        try:
            _CLEAR.write_text('5')  # man 5 proc: resets VmHWM
        except OSError:  # another system, or not allowed
            self._anew = False

    def read(self) -> tuple[int, str]:
        """Return the peak in MiB, and of what it is, in words."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() // 2**20, 'of tensors on the GPU'
        if self._anew:
            (line,) = (s for s in _STATUS.read_text().splitlines() if s.startswith('VmHWM:'))
            return int(line.split()[1]) // 2**10, 'of the process while it trained'
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak //= 2**20 if sys.platform == 'darwin' else 2**10
        return peak, 'of the process, with what check needs itself'
