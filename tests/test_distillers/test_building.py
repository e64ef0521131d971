import pytest
from helpers import batch, build, distiller


def mapping(**changes):
    cfg = distiller()['loss_forward_mappings']['loss_kd']
    cfg.update(changes)
    return dict(loss_kd={key: value for key, value in cfg.items() if value is not None})


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        (
            dict(distill_losses=dict(kd=dict(type='kd_plugins.KDLoss'))),
            r'distill_losses\.kd would never reach the total.*call it loss_kd',
        ),
        (
            dict(loss_forward_mappings=dict()),
            r'distill_losses\.loss_kd is mapped to nothing.*loss_forward_mappings\.loss_kd',
        ),
        (
            dict(loss_forward_mappings=dict(mapping(), loss_dk=dict())),
            r"loss_forward_mappings\.loss_dk belongs to no loss \(did you mean 'loss_kd'\?\)",
        ),
        (
            dict(loss_forward_mappings=mapping(preds_S=dict(recorder='logit', from_student=True))),
            r"preds_S\.recorder='logit' is not one of student_recorders \(did you mean 'logits'",
        ),
        (
            dict(loss_forward_mappings=mapping(preds_S=dict(recorder='logits'))),
            r'preds_S=.*needs recorder=<name> and from_student=',
        ),
        (
            dict(loss_forward_mappings=mapping(preds_T=None)),
            r'loss_forward_mappings\.loss_kd lacks preds_T, which KDLoss needs',
        ),
        (
            dict(loss_forward_mappings=mapping(preds_X=dict(recorder='logits', from_student=True))),
            r'preds_X is not in the signature of KDLoss forward',
        ),
        (
            dict(teacher_recorders=dict(logits=dict(type='ModuleOutputs', source='fcc'))),
            r"teacher_recorders\.logits\.source='fcc' is not in the teacher.*did you mean 'fc'",
        ),
        (
            dict(
                student_recorders=dict(
                    logits=dict(type='Parameter', source='fc.wieght'),
                    labels=dict(type='ModuleInputs', source='loss_module'),
                )
            ),
            r"student_recorders\.logits\.source='fc.wieght'.*did you mean 'fc.weight'",
        ),
    ],
)
def test_what_would_train_nothing_is_refused(changes, says):
    with pytest.raises(ValueError, match=rf'model\.distiller.*{says}'):
        build(distiller=distiller(**changes))


def test_a_source_that_is_never_called_is_named_at_the_first_step():
    recorders = dict(logits=dict(type='ModuleOutputs', source='loss_module'))
    model = build(distiller=distiller(teacher_recorders=recorders))
    says = r"teacher_recorders\.logits\.source='loss_module' was called 0 times.*preds_T"
    with pytest.raises(RuntimeError, match=says):
        model(*batch(), mode='loss')


@pytest.mark.parametrize('scope', ['mmengine', 'mmpretrain', 'mmdet'])
def test_short_names_are_found_from_any_scope(scope):
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope(scope):
        model = build(
            architecture=dict(type='mmengine.TinyClassifier', width=4),
            teacher=dict(type='mmengine.TinyClassifier'),
        )
    assert type(model.distiller).__name__ == 'ConfigurableDistiller'
