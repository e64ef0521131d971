"""The tutorial of detectors, walked: its commands one after the other, with each form of data."""

import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT

PAGE = (ROOT / 'docs/tutorial_detection.md').read_text(encoding='utf-8')
#: What makes it short: the same commands on fewer scenes, and fewer seeds. A student that has
#: seen so little is sure of nothing.
SHORTER = {
    'make_digit_scenes.py': 'make_digit_scenes.py --train 48 --val 12',
    '--seeds 0 1 2': '--seeds 0 1',
    '--int8': '--int8 4 --cfg-options model.architecture.test_cfg.score_thr=0.001',
}


def blocks(language):
    return re.findall(rf'```{language}\n(.*?)```', PAGE, re.DOTALL)


def walk(folder, data, shorter=SHORTER):
    """Run the page's shell blocks in an empty folder, with this data; return what each printed."""
    for code in blocks('python'):
        name = re.match(r'# (\S+\.py)\n', code)
        (folder / name[1]).write_text(code)
    # What the shell calls python, whichever environment is active.
    environment = dict(
        os.environ, KD=str(ROOT), OMP_NUM_THREADS='1',
        PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH'],
        PYTHONPATH=str(ROOT),
    )  # fmt: skip
    said = []
    for block in blocks('bash'):
        for command, short in shorter.items():
            block = block.replace(command, short)
        reply = subprocess.run(
            ['bash', '-ec', block.replace('--data my_voc', f'--data {data}')],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert reply.returncode == 0, block + reply.stdout[-2000:] + reply.stderr[-3000:]
        said.append(reply.stdout)
    return said


@pytest.mark.long
@pytest.mark.parametrize('data', ['my_voc', 'my_yolo', 'data/digit_scenes'])
def test_the_page_can_be_walked_from_an_empty_folder_to_an_int8_file(tmp_path, data):
    said = walk(tmp_path, data)
    assert all('ready to train' in each for each in said if 'no findings' in each)
    assert (tmp_path / 'page.png').stat().st_size > 10_000
    assert 'INCONCLUSIVE' in said[-2] or 'GO' in said[-2]
    assert 'calibrated on 4 training pictures' in said[-1]
    for name in ('student.pth', 'student.onnx', 'student_int8.onnx'):
        assert (tmp_path / name).is_file()


def test_every_shell_block_of_the_page_is_walked():
    whole = ''.join(blocks('bash'))
    for tool in ('make_digit_scenes', 'new_config', 'check', 'train', 'verdict', 'export_student'):
        assert f'$KD/tools/{tool}.py' in whole
    assert all(command in whole for command in SHORTER) and whole.count('--data my_voc') == 2
