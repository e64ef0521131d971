import json

import pytest

from kd_plugins.experiments.metrics import headline
from kd_plugins.experiments.results import Failure, Result, Run
from kd_plugins.experiments.summary import gain, listed_figure, said, summarise

TOP1 = headline(['accuracy/top1'])


def result(*accuracy, **changes):
    cfg = dict(config_hash='a', steps=[2, 4], accuracy=list(accuracy), predictions=[])
    return Result(**dict(cfg, parameters=7, seconds=1.0, **changes))


def test_a_gain_is_doubted_within_two_standard_errors():
    # Variances 2 and 2 over two values: the error of the difference is the root of 2.
    assert gain([2.0, 4.0], [0.0, 2.0]) == '+2.00 ?'
    assert gain([3.0, 5.0], [0.0, 2.0]) == '+3.00'
    assert gain([0.0, 2.0], [3.0, 5.0]) == '-3.00'
    assert gain([9.0], [0.0]) == '+9.00 ?' and gain([9.0, 9.0], [0.0]) == '+9.00 ?'
    assert said([1.0, 3.0]) == '2.00 ± 1.41' and said([1.0]) == '1.00'


@pytest.mark.parametrize(
    'row',
    [
        dict(Name='b'),
        dict(Name='a'),
        dict(Name='a', Results=None),
        dict(Name='a', Results=[dict(Metrics={'box AP': 40.0})]),
        dict(Name='a', Results=[dict(Task='x')]),
    ],
)
def test_a_metafile_need_not_list_a_figure(row, tmp_path):
    (tmp_path / 'metafile.yml').write_text(json.dumps(dict(Models=[row])))
    assert listed_figure(tmp_path / 'a.py', TOP1) is None
    row['Name'], row['Results'] = 'a', [dict(Metrics={'Top 1 Accuracy': 70.0})]
    (tmp_path / 'metafile.yml').write_text(json.dumps(dict(Models=[row])))
    assert listed_figure(tmp_path / 'a.py', TOP1) == dict(figure=70.0, source='kd_plugins')


def test_versions_and_failures_are_those_of_the_runs(tmp_path):
    runs = [Run('a', 'a.py', seed, str(seed)) for seed in range(3)]
    results = {
        runs[0]: result(1.0, 2.0, versions=dict(torch='1', numpy='2'), hardware='GPU'),
        runs[1]: result(1.0, 4.0, versions=dict(torch='9', numpy='2'), hardware='CPU'),
    }
    summary = summarise(tmp_path / 'a.py', dict(b=1), 'abc', results, {runs[2]: Failure('no room')})
    assert summary['versions'] == dict(torch='1 or 9', numpy='2')
    assert summary['hardware'] == 'GPU or CPU' and summary['config_hash'] == 'abc'
    assert summary['failed'] == [dict(seed=2, reason='no room')]
    assert summary['last'] == dict(mean=3.0, deviation=pytest.approx(2**0.5))
    assert summary['seeds'][1]['steps'] == [2, 4] and summary['metric'] == 'accuracy/top1'
