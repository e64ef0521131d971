"""Run ``tools/compare.py --view patches``, of which this was the name."""

import runpy
import sys
from pathlib import Path

sys.argv[1:1] = ['--view', 'patches', '--out', 'dense.png']
runpy.run_path(str(Path(__file__).with_name('compare.py')), run_name='__main__')
