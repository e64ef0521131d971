"""What makes a result stale, and what does not."""

import pytest
from mmengine.config import Config

from kd_plugins.experiments import identity
from kd_plugins.experiments.identity import config_hash
from kd_plugins.experiments.results import Result, Run, finished, load_config
from kd_plugins.experiments.run import RESULT
from kd_plugins.files.writing import write_aside


def network(path, width, **changes):
    """Write a config of a network."""
    model = dict(type='TinyClassifier', width=width, **changes)
    path.write_text(f'model = {model!r}\n')
    return str(path)


def place(folder, name, content=b'one'):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


#: The config of a training, by the name of the file below a folder that it depends on.
NAMED = {
    'teacher_ckpt': ('teacher.pth', lambda f: dict(teacher_ckpt=f)),
    'init_cfg of the teacher': (
        'teacher.pth', lambda f: dict(teacher=dict(type='X', init_cfg=pretrained(f)))),
    'init_cfg of the backbone': (
        'backbone.pth',
        lambda f: dict(architecture=dict(type='X', backbone=dict(init_cfg=[pretrained(f)])))),
    'init_cfg of the student': ('student.pth', lambda f: dict(init_cfg=pretrained(f))),
    'pretrained': ('swin.bin', lambda f: dict(architecture=dict(backbone=dict(pretrained=f)))),
    'of a connector': ('c.pth', lambda f: dict(distiller=dict(a=[dict(b=({'checkpoint': f},))]))),
}  # fmt: skip


def pretrained(path):
    return dict(type='Pretrained', checkpoint=path)


@pytest.mark.parametrize('named', NAMED)
@pytest.mark.parametrize('relative', [False, True])
def test_a_weight_file_counts_by_its_content(named, relative, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, model = NAMED[named]
    path = tmp_path / name
    cfg = Config(dict(model=model(name if relative else str(path))))
    without = config_hash(cfg)
    place(tmp_path, name)
    one = config_hash(cfg)
    place(tmp_path, name, b'two')
    two = config_hash(cfg)
    assert len({without, one, two}) == 3
    place(tmp_path, name)
    assert config_hash(cfg) == one
    place(tmp_path, 'else.pth')
    assert config_hash(cfg) == one


@pytest.mark.parametrize('key', ['teacher_ckpt', 'folder'])
@pytest.mark.parametrize('relative', [False, True])
def test_a_folder_of_hugging_face_counts_by_its_weights_and_settings(
    key, relative, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = 'dino' if relative else str(tmp_path / 'dino')
    teacher = dict(type='X', backbone=dict(type='HuggingFaceFeatures', folder=path))
    model = dict(teacher_ckpt=path) if key == 'teacher_ckpt' else dict(teacher=teacher)
    hashes = {config_hash(Config(dict(model=model)))}
    for name in ('config.json', 'preprocessor_config.json', 'model-00001-of-2.safetensors'):
        for content in (b'one', b'two'):
            place(tmp_path / 'dino', name, content)
            hashes.add(config_hash(Config(dict(model=model))))
    assert len(hashes) == 7
    place(tmp_path / 'dino', 'README.md')
    assert config_hash(Config(dict(model=model))) in hashes


def test_other_files_count_too(tmp_path):
    root = tmp_path / 'data'
    loader = dict(dataset=dict(type='Y', data_root=str(root), ann_file='annotations/train.json'))
    configs = {
        tmp_path / 'start.pth': dict(load_from=str(tmp_path / 'start.pth')),
        root / 'annotations/train.json': dict(train_dataloader=loader),
        tmp_path / 'val.json': dict(val_evaluator=[dict(ann_file=str(tmp_path / 'val.json'))]),
    }
    for path, entries in configs.items():
        cfg = Config(dict(model=dict(type='X'), **entries))
        hashes = {config_hash(cfg)}
        for content in (b'one', b'two'):
            place(path.parent, path.name, content)
            hashes.add(config_hash(cfg))
        assert len(hashes) == 3, path


@pytest.mark.parametrize('side', ['architecture', 'teacher', 'inner'])
def test_what_is_behind_a_cfg_path_counts(side, tmp_path):
    path = tmp_path / 'net.py'
    other = dict(cfg_path=network(tmp_path / 'other.py', 3))
    inner = dict(cfg_path=str(path), width=5)
    model = {'architecture': other, 'teacher': other}
    model[side] = dict(type='Wrapper', networks=[inner]) if side == 'inner' else inner
    cfg = Config(dict(model=model))
    weights = place(tmp_path, 'net.pth')
    network(path, 4)
    start = config_hash(cfg)
    # What is overridden beside it does not count, being not what is built.
    network(path, 400)
    assert config_hash(cfg) == start
    network(path, 4, classes=9)
    changed = config_hash(cfg)
    network(path, 4, init_cfg=pretrained(str(weights)))
    with_weights = config_hash(cfg)
    place(tmp_path, 'net.pth', b'two')
    assert len({start, changed, with_weights, config_hash(cfg)}) == 4
    # Nor does whether it is said inline.
    network(path, 4)
    model[side] = dict(type='TinyClassifier', width=5)
    if side != 'inner':
        inline = Config(dict(model=dict(model, **{side: dict(cfg_path=network(path, 5))})))
        assert config_hash(inline) == start


def test_what_a_package_lists_for_pretrained_counts():
    path = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
    plain = Config(dict(model=dict(teacher=dict(cfg_path=path))))
    weights = Config(dict(model=dict(teacher=dict(cfg_path=path, pretrained=True))))
    assert config_hash(plain) != config_hash(weights)


def test_imported_code_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    module = place(tmp_path, 'code_of_a_user.py', b'a = 1')
    cfg = Config(dict(model=dict(type='X'), custom_imports=dict(imports=['code_of_a_user', 'no'])))
    before = config_hash(cfg)
    module.write_text('a = 2')
    assert config_hash(cfg) != before


def test_what_is_written_and_where_does_not_count(tmp_path):
    def cfg(**changes):
        out = str(tmp_path / 'out.pkl')
        return Config(dict(dict(model=dict(type='X', a=1), b=[1, 'c'], test=dict(out_file_path=out),
                                work_dir='here'), **changes))  # fmt: skip

    before = config_hash(cfg())
    place(tmp_path, 'out.pkl')
    assert config_hash(cfg()) == before
    assert config_hash(cfg(work_dir='there')) == before
    assert config_hash(Config(dict(reversed(list(cfg().to_dict().items()))))) == before
    for change in (dict(b=['c', 1]), dict(b=[1, 'd']), dict(model=dict(type='X', a=1.5)),
                   dict(e=None), dict(model=dict(type='X'))):  # fmt: skip
        assert config_hash(cfg(**change)) != before, change
    # An address is its name, and no file of this machine.
    address = 'https://download.openmmlab.com/a-8c55e0d3.pth'
    assert config_hash(cfg(load_from=address)) != config_hash(cfg(load_from=address[:-5] + '4.pth'))


def test_objects_of_python_count_by_their_names():
    class One:
        pass

    def written(*objects):
        return config_hash(Config(dict(model=dict(type='X'), objects=list(objects))))

    # Not by addresses or orders, which other processes have others of.
    assert written(One(), One, len) == written(One(), One, len)
    assert written(One) != written(Config) and written(len) != written(sum)
    assert written({1: 2, '1': 3}) == written({'1': 3, 1: 2}) != written({1: 3, '1': 2})
    assert identity._canonical({'b', 'a', 'c'}) == ["'a'", "'b'", "'c'"]


def test_a_network_that_is_not_there_is_an_error(tmp_path):
    cfg = Config(dict(model=dict(teacher=dict(cfg_path=str(tmp_path / 'gone.py')))))
    with pytest.raises(FileNotFoundError):
        config_hash(cfg)


def test_a_changed_cfg_path_makes_results_stale(tmp_path):
    path = tmp_path / 'student.py'
    config = tmp_path / 'taught.py'
    config.write_text(
        f"model = dict(type='X', architecture=dict(cfg_path={network(path, 4)!r}))\n"
        'randomness = dict(seed=5)\n'
    )
    run = Run('taught', str(config), 0, str(tmp_path))
    before = config_hash(load_config(run))
    result = Result(before, [1], [1.0], [], 1, 1.0)
    write_aside(
        f'{{"config_hash": "{before}", "steps": [1], "accuracy": [1.0], "predictions": [], '
        '"parameters": 1, "seconds": 1.0}'.encode(),
        tmp_path / RESULT,
    )
    assert finished(run) == result
    network(path, 5)
    assert finished(run) is None
