"""Installs kd_plugins, with the ``.mim`` folder that ``mim`` looks for.

The wheel carries ``kd_plugins/.mim/{configs,tools,model-index.yml}``: the
repository's folders, and a list of the configs' metafiles. So ``mim train
kd_plugins NAME.py`` finds a config by its base name. onedl-mim 0.5.1 looks in the
folder of the first installed file instead, which pip sorts to be
``kd_plugins-VERSION.dist-info``, so the wheel has the same folder there.

An editable install gets a link to the tools only: a second copy of the configs
would make every base name ambiguous.
"""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
PACKAGE = 'kd_plugins'


def version() -> str:
    """Read the version without importing the package."""
    scope: dict = {}
    exec((ROOT / PACKAGE / 'version.py').read_text(), scope)
    return scope['__version__']


def requirements(name: str) -> list:
    """Read a file of requirements without its comments."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    plain = (line.split('#')[0].strip() for line in lines)
    return [line for line in plain if line]


def link_tools() -> None:
    """Let ``mim`` find the tools of an editable install."""
    link = ROOT / PACKAGE / '.mim' / 'tools'
    link.parent.mkdir(exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(ROOT / 'tools', link.parent), target_is_directory=True)


def model_index() -> str:
    """List the metafile of every folder of configs, as mim reads it."""
    found = sorted(path.relative_to(ROOT) for path in ROOT.glob('configs/*/metafile.yml'))
    return 'Import:\n' + ''.join(f'  - {path.as_posix()}\n' for path in found)


def copy_mim(parent: Path) -> None:
    """Write ``parent/.mim`` anew."""
    target = parent / '.mim'
    shutil.rmtree(target, ignore_errors=True)
    skip = shutil.ignore_patterns('__pycache__', '*.pyc', 'dev')
    for name in ('configs', 'tools'):
        shutil.copytree(ROOT / name, target / name, ignore=skip)
    (target / 'model-index.yml').write_text(model_index(), encoding='utf-8')


class BuildWithMim(build_py):
    """Copies what mim needs into the package."""

    def run(self) -> None:
        """Build, then copy or link."""
        super().run()
        if getattr(self, 'editable_mode', False):
            link_tools()
        else:
            copy_mim(Path(self.build_lib) / PACKAGE)


class WheelWithMim(bdist_wheel):
    """Copies the same into the wheel's metadata, just before it is packed."""

    def write_wheelfile(self, wheelfile_base: str, *args, **kwargs) -> None:
        """Write WHEEL, the last file of the metadata, then copy."""
        super().write_wheelfile(wheelfile_base, *args, **kwargs)
        copy_mim(Path(wheelfile_base))


class DevelopWithMim(develop):
    """The editable install of older pips."""

    def run(self) -> None:
        """Install, then link."""
        super().run()
        link_tools()


setup(
    name=PACKAGE,
    version=version(),
    description='Knowledge distillation for OpenMMLab, on the upstream runners',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    python_requires='>=3.10',
    install_requires=requirements('runtime'),
    extras_require={
        # OpenMMLab's packages too, for those who have none of them yet.
        'official': requirements('official'),
        'modern': requirements('modern'),
        # `mim install` asks for the extra of this name.
        'mim': requirements('mminstall'),
    },
    cmdclass={
        'build_py': BuildWithMim,
        'bdist_wheel': WheelWithMim,
        'develop': DevelopWithMim,
    },
    zip_safe=False,
)
