"""Drawing pictures for every class, with a stand-in that is called as diffusers' pipelines are."""

import json
import os
import runpy
import shutil
import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from kd_plugins.datasets import generation
from kd_plugins.datasets.generation import Generation, begin, check_room, drawing, generate, missing

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]


class OfClasses:
    """Draws noise and the class, as DiTPipeline is called."""

    broken_after = None

    def __init__(self):
        self.asked = []

    @torch.no_grad()
    def __call__(self, class_labels, guidance_scale=4.0, generator=None, num_inference_steps=50,
                 output_type='pil', return_dict=True):  # fmt: skip
        if self.broken_after is not None and len(self.asked) >= self.broken_after:
            raise KeyboardInterrupt
        self.asked.append((class_labels[0], guidance_scale, num_inference_steps))
        noise = torch.rand(len(class_labels), 8, 8, 3, generator=generator)
        noise[:, 0, 0] = torch.tensor(class_labels)[:, None] / 255
        arrays = (255 * noise).round().byte().numpy()
        return SimpleNamespace(images=[Image.fromarray(array) for array in arrays])

    def set_progress_bar_config(self, disable):
        pass

    def to(self, device):
        return self


class OfTexts(OfClasses):
    def __call__(self, prompt=None, height=None, num_inference_steps=50, guidance_scale=7.5,
                 generator=None, **kwargs):  # fmt: skip
        labels = [len(text) for text in prompt]
        return super().__call__(labels, guidance_scale, generator, num_inference_steps)


def what(**changes):
    settings = dict(pipeline='a', classes=range(3), seeds=[0, 5], per_seed=2, steps=7)
    return Generation(**(settings | changes))


def drawn(out, pipeline=None, process=(0, 1), **changes):
    asked = what(**changes)
    begin(out, asked)
    return generate(out, asked, drawing(pipeline or OfClasses(), asked), process)


def pictures(out):
    return {path.name: np.array(Image.open(path)) for path in out.glob('*.png')}


def same(a, b):
    assert a.keys() == b.keys()
    return all((a[name] == b[name]).all() for name in a)


def test_what_is_drawn_is_what_the_names_say(tmp_path):
    pipeline = OfClasses()
    index = drawn(tmp_path, pipeline)
    names = [f'class_{c}_seed_{s}_num_{i}.png' for c in range(3) for s in (0, 5) for i in range(2)]
    assert index.name == 's2_st7_12.txt' and index.read_text().split() == names
    found = pictures(tmp_path)
    assert sorted(found) == sorted(names)
    for name, picture in found.items():
        label, seed, number = (int(part) for part in name[:-4].split('_')[1::2])
        noise = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(seed))[number]
        assert (picture[0, 0] == label).all()
        assert (picture[1:] == (255 * noise[1:]).round().byte().numpy()).all()
    assert sorted(pipeline.asked) == sorted([(c, 2.0, 7) for c in range(3)] * 2)


def test_the_published_index_has_its_published_name():
    published = Generation('facebook/DiT-XL-2-256', range(1000), range(20))
    assert published.count == 200_000 and published.index == 's2_st100_200k.txt'
    assert Generation('a', range(1000), range(5), guidance=1.6).index == 's1.6_st100_50k.txt'


def test_a_killed_run_goes_on_and_draws_nothing_twice(tmp_path):
    drawn(tmp_path / 'whole')
    parts, pipeline = tmp_path / 'parts', OfClasses()
    pipeline.broken_after = 4
    with pytest.raises(KeyboardInterrupt):
        drawn(parts, pipeline)
    assert len(pictures(parts)) == 8 and not [*parts.glob('*.txt')]
    # Of one call a picture is there, and it stays what it is.
    (parts / 'class_1_seed_0_num_0.png').unlink()
    kept = parts / 'class_1_seed_0_num_1.png'
    before = kept.stat().st_mtime_ns
    again = OfClasses()
    assert len(missing(parts, what())) == 3
    drawn(parts, again)
    assert len(again.asked) == 3 and kept.stat().st_mtime_ns == before
    assert same(pictures(tmp_path / 'whole'), pictures(parts))
    assert drawn(parts, None).exists()


def test_processes_share_the_work_whenever_they_start(tmp_path):
    drawn(tmp_path / 'whole')
    asked = []
    for i in range(3):
        pipeline = OfClasses()
        index = drawn(tmp_path / 'parts', pipeline, (i, 3))
        assert (index is None) == (i < 2)
        asked += pipeline.asked
        assert len(pipeline.asked) == 2
    assert same(pictures(tmp_path / 'whole'), pictures(tmp_path / 'parts'))


def test_texts_are_asked_for_class_by_class(tmp_path):
    pipeline = OfTexts()
    drawn(tmp_path, pipeline, prompts=['a', 'bb', 'ccc', 'not asked'])
    assert {asked[0] for asked in pipeline.asked} == {1, 2, 3}
    assert json.loads((tmp_path / 'generation.json').read_text())['prompts'] == {
        '0': 'a', '1': 'bb', '2': 'ccc'
    }  # fmt: skip
    with pytest.raises(ValueError, match='holds pictures of other prompts'):
        drawn(tmp_path, prompts=['a', 'b2', 'ccc'])
    drawn(tmp_path, OfTexts(), prompts=['', '', '', 'more'], classes=[3])
    assert json.loads((tmp_path / 'generation.json').read_text())['prompts']['3'] == 'more'


@pytest.mark.parametrize('changes, says', [
    (dict(guidance=4.0), r'guidance=2.0 \(not 4.0\)'),
    (dict(pipeline='b', steps=8), r'pipeline=a \(not b\), steps=7 \(not 8\)'),
    (dict(scheduler='DDPMScheduler'), r'scheduler= \(not DDPMScheduler\)'),
])  # fmt: skip
def test_pictures_of_other_settings_are_not_mixed_in(tmp_path, changes, says):
    drawn(tmp_path)
    with pytest.raises(ValueError, match=rf'holds pictures of {says}: give another --out'):
        begin(tmp_path, what(**changes))
    begin(tmp_path, what(classes=range(9), seeds=[1], per_seed=3))


def test_processes_that_begin_at_one_moment_agree_on_the_settings(tmp_path, monkeypatch):
    refused, write = [], generation.write_aside

    def other():
        try:
            begin(tmp_path, what(steps=8))
        except ValueError as error:
            refused.append(str(error))

    thread = threading.Thread(target=other)

    def while_another_begins(*args):
        monkeypatch.setattr(generation, 'write_aside', write)
        thread.start()
        thread.join(0.5)
        write(*args)

    monkeypatch.setattr(generation, 'write_aside', while_another_begins)
    begin(tmp_path, what())
    thread.join()
    assert len(refused) == 1 and 'holds pictures of steps=7 (not 8)' in refused[0]
    begin(tmp_path, what())


def test_an_index_of_as_many_other_pictures_is_not_overwritten(tmp_path):
    index = drawn(tmp_path)
    before = index.read_text()
    says = r"s2_st7_12.txt' names as many pictures of other classes or seeds, and would be over"
    for changes in (dict(classes=range(3, 6)), dict(seeds=[1, 2]), dict(seeds=[0], per_seed=4)):
        with pytest.raises(ValueError, match=says):
            begin(tmp_path, what(**changes))
        # Another process may have written it meanwhile.
        with pytest.raises(ValueError, match=says):
            generate(tmp_path, what(**changes), drawing(OfClasses(), what(**changes)))
    assert index.read_text() == before
    assert drawn(tmp_path, classes=[2, 0, 1]) == index
    assert drawn(tmp_path, classes=range(6)).name == 's2_st7_24.txt'


def test_two_processes_may_write_the_same_file_at_the_same_moment(tmp_path, monkeypatch):
    whole = drawn(tmp_path / 'whole').read_text()
    sync, others = os.fsync, []

    def while_another_writes(handle):
        if not others:
            others.append(None)
            others[0] = generate(tmp_path / 'both', what(), drawing(OfClasses(), what()))
        sync(handle)

    begin(tmp_path / 'both', what())
    monkeypatch.setattr(os, 'fsync', while_another_writes)
    # The same share, started twice; then both end at once.
    index = generate(tmp_path / 'both', what(), drawing(OfClasses(), what()))
    assert others == [index] and index.read_text() == whole
    assert same(pictures(tmp_path / 'whole'), pictures(tmp_path / 'both'))
    others.clear()
    assert generate(tmp_path / 'both', what(), lambda label, seed: []).read_text() == whole
    assert others == [index] and not [*(tmp_path / 'both').glob('*.part')]


class Neither(OfClasses):
    def __call__(self, batch_size=1, generator=None):
        return SimpleNamespace(images=[])


class One(OfClasses):
    def __call__(self, class_labels, **kwargs):
        return SimpleNamespace(images=super().__call__(class_labels, **kwargs).images[:1])


def test_what_cannot_be_drawn_is_refused(tmp_path):
    for changes, says in (
        (dict(per_seed=0), '--per-seed=0 is wrong'),
        (dict(classes=[]), r'--classes=\[\] is wrong: give whole numbers'),
        (dict(guidance=-1), '--guidance=-1 is wrong'),
        (dict(prompts=['a']), '--prompts has 1 lines, and --classes has 2'),
    ):
        with pytest.raises(ValueError, match=says):
            what(**changes)
    with pytest.raises(ValueError, match='is a Neither, which draws neither classes'):
        drawing(Neither(), what())
    with pytest.raises(ValueError, match=r'\(OfTexts\) draws what a text says: give --prompts'):
        drawing(OfTexts(), what())
    with pytest.raises(ValueError, match='--prompts has no effect with OfClasses'):
        drawing(OfClasses(), what(prompts=['a', 'b', 'c']))
    with pytest.raises(ValueError, match='the pipeline drew 1 pictures where 2 were asked for'):
        drawn(tmp_path, One())


def test_the_disk_has_to_have_room(tmp_path, monkeypatch):
    # The published 200,000 take about 20 GB.
    assert check_room(tmp_path / 'new', 200, 256**2) == pytest.approx(20e6)
    free = SimpleNamespace(free=1e9)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: free)
    with pytest.raises(ValueError, match=r'200,000 pictures take about 20 GB, .* has 1 GB: make'):
        check_room(tmp_path / 'new', 200_000, 256**2)


@pytest.fixture
def tool(monkeypatch):
    """Run the tool in this process, on a stand-in for diffusers; return what it exits with."""
    diffusers = ModuleType('diffusers')
    diffusers.DiffusionPipeline = SimpleNamespace(
        from_pretrained=lambda name, torch_dtype: OfClasses()
    )
    monkeypatch.setitem(sys.modules, 'diffusers', diffusers)

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['generate_pictures.py', *map(str, arguments)])
        try:
            runpy.run_path(str(ROOT / 'tools/generate_pictures.py'), run_name='__main__')
        except SystemExit as error:
            return error.code
        return 0

    return run


def test_from_the_command_line(tmp_path, tool, capsys, monkeypatch):
    out = tmp_path / 'new'
    given = ['--pipeline', 'mine', '--out', out, '--classes', '0,2-3,2', '--seeds', '4',
             '--per-seed', '2', '--steps', '3', '--size', '8', '--device', 'cpu']  # fmt: skip
    assert tool(*given) == 0
    said = capsys.readouterr().out
    first = f'6 pictures of 3 classes in {out}; to draw: 6, about 5.86e-07 GB at 8 x 8 pixels\n'
    assert said.startswith(first) and said.endswith(f'wrote {out}/s2_st3_6.txt\n')
    assert len(pictures(out)) == 6
    assert tool(*given) == 0 and 'to draw: 0, ' in capsys.readouterr().out
    assert 'steps=3 (not 9)' in tool(*given[:10], '--steps', '9')
    assert 'give a scheduler of diffusers' in tool(
        *given[:-8], '--seeds', '7', '--scheduler', 'Nothing', '--out', tmp_path / 'other'
    )
    for number in range(2):
        monkeypatch.setenv('RANK', str(number))
        monkeypatch.setenv('WORLD_SIZE', '2')
        capsys.readouterr()
        assert tool(*given[:2], '--out', tmp_path / 'shared', *given[4:]) == 0
        said = capsys.readouterr().out
        assert ('this process is done' in said) == (number == 0)
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    says = tool(*given[:2], '--out', tmp_path / 'without', *given[4:])
    assert says.startswith('drawing pictures takes the package diffusers')


# --- reading them


def dataset(root, num_classes=3, **changes):
    cfg = dict(type='kd_plugins.GeneratedPictures', num_classes=num_classes,
               data_root=str(root), pipeline=PIPELINE)  # fmt: skip
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(cfg | changes)


@pytest.mark.parametrize('ann_file', ['', 's2_st7_12.txt'])
def test_the_classes_of_pictures_are_read_from_their_names(tmp_path, ann_file):
    drawn(tmp_path)
    (tmp_path / 'sub').mkdir()
    if not ann_file:
        (tmp_path / 'class_2_seed_5_num_1.png').rename(tmp_path / 'sub/class_2_seed_5_num_1.png')
    data = dataset(tmp_path, ann_file=ann_file)
    assert len(data) == 12 and sorted(data.get_gt_labels()) == [0] * 4 + [1] * 4 + [2] * 4
    for i in range(12):
        sample = data[i]
        # BGR; the first pixel is the class.
        assert int(sample['inputs'][0, 0, 0]) == int(sample['data_samples'].gt_label)
    lazy = dataset(tmp_path, ann_file=ann_file, lazy_init=True)
    lazy.full_init()
    assert (lazy.get_gt_labels() == data.get_gt_labels()).all()


def test_an_index_of_paths_from_elsewhere_is_read(tmp_path, monkeypatch):
    """The published one counts from the directory in which the training is started."""
    drawn(tmp_path / 'syn_dataset')
    names = [path.name for path in (tmp_path / 'syn_dataset').glob('class_1*')]
    (tmp_path / 'some.txt').write_text(''.join(f'./syn_dataset/{name}\n' for name in names))
    monkeypatch.chdir(tmp_path)
    data = dataset('', ann_file='some.txt')
    assert len(data) == 4 and set(data.get_gt_labels()) == {1}
    assert data[0]['inputs'].shape == (3, 8, 8)


def test_what_is_no_such_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"GeneratedPictures: '.*new/' has no pictures: give data"):
        (tmp_path / 'new').mkdir()
        dataset(tmp_path / 'new')
    out = tmp_path / 'out'
    drawn(out)
    says = r"num_classes=2, and '.*class_2_seed_0_num_0.png' is of class 2, counted from 0"
    with pytest.raises(ValueError, match=says):
        dataset(out, num_classes=2)
    with pytest.raises(ValueError, match='num_classes=3, and its metainfo names 2 classes'):
        dataset(out, metainfo=dict(classes=('a', 'b')))
    with pytest.raises(ValueError, match='num_classes=1 is wrong'):
        dataset(out, num_classes=1)
    (out / 'class_1_seed_0_num_1.png').unlink()
    says = r"names 1 of 12 files that are not there, such as '.*class_1_seed_0_num_1.png'"
    with pytest.raises(ValueError, match=says):
        dataset(out, ann_file='s2_st7_12.txt')
    with pytest.raises(ValueError, match='names 12 of 12 files that are not there'):
        dataset(out, ann_file='s2_st7_12.txt', data_prefix='elsewhere')
    (out / 'tench.png').write_bytes((out / 'class_0_seed_0_num_0.png').read_bytes())
    with pytest.raises(ValueError, match=r"the name of '.*tench.png' tells no class: it would be"):
        dataset(out)
    (out / 'empty.txt').write_text('\n')
    with pytest.raises(ValueError, match=r"'.*empty.txt' has no pictures"):
        dataset(out, ann_file='empty.txt')


def test_the_module_is_imported_without_diffusers():
    assert 'diffusers' not in vars(generation)
