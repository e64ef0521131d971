"""What the README tells its readers to type."""

import re
import time

import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

README = (ROOT / 'README.md').read_text()


def test_the_ten_lines_distil_a_stock_config(tmp_path, monkeypatch):
    code = re.search(r'```python\n(.*?)```', README, re.DOTALL).group(1)
    assert len(code.splitlines()) <= 10
    (tmp_path / 'my_distillation.py').write_text(code)
    for name in ('student', 'teacher'):
        cfg = Config.fromfile(ROOT / f'configs/vanilla/digits_{name}.py')
        cfg.dump(tmp_path / f'my_{name}.py')
    init_default_scope('mmpretrain')
    teacher = MODELS.build(Config.fromfile(tmp_path / 'my_teacher.py').model)
    torch.save(teacher.state_dict(), tmp_path / 'my_teacher.pth')
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile('my_distillation.py')
    cfg.merge_from_dict(
        {
            'train_dataloader.dataset.indices': 64,
            'train_cfg.max_epochs': 1,
            'work_dir': 'work',
            'experiment_name': f'readme_{time.time_ns()}',
        }
    )
    model = Runner.from_cfg(cfg).train()
    assert torch.equal(model.teacher.network.head.fc.weight, teacher.head.fc.weight)
    stock = MODELS.build(Config.fromfile('my_student.py').model)
    stock.load_state_dict(torch.load('work/epoch_1.pth', weights_only=False)['state_dict'])


def test_links_lead_somewhere():
    links = re.findall(r'\]\(([^)#]+)\)', README)
    local = [link for link in links if '://' not in link]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []
