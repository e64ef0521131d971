"""The steps that writing a checkpoint takes, and dying at one of them."""

import builtins
import os

from mmengine.fileio import LocalBackend

from kd_plugins.files import writing


class Moments:
    """Counts every opening, half of a writing, syncing, renaming and deleting.

    Args:
        at: The step to die at, counted from 1; 0 is none.
        die: What to do there.
        patch: ``setattr``, or one that can be undone.
    """

    def __init__(self, at, die, patch=setattr):
        self.count, self.at, self.die = 0, at, die
        for owner, name in ((os, 'fsync'), (os, 'replace'), (LocalBackend, 'remove')):
            patch(owner, name, self.around(getattr(owner, name)))
        writing.open = builtins.open  # a name of its own, which can be put back
        patch(writing, 'open', self.open)

    def tick(self):
        self.count += 1
        if self.count == self.at:
            self.die()

    def around(self, original):
        def step(*args):
            self.tick()
            original(*args)
            self.tick()

        return step

    def open(self, *args):
        return _Halves(builtins.open(*args), self)


class _Halves:
    """A file that is written in two steps."""

    def __init__(self, file, moments):
        self.file, self.moments = file, moments

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        self.moments.tick()
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.moments.tick()
        self.file.write(content[len(content) // 2 :])

    def __getattr__(self, name):
        return getattr(self.file, name)
