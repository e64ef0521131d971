import pytest
from helpers import STUDENT, algorithm_cfg, batch, build, distiller
from mmengine.registry import MODELS
from torch.utils.checkpoint import checkpoint


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


#: What is read inside of a part: the recorder, which part of its record, and how it is called.
INSIDE = {
    'body.0': (dict(type='ModuleOutputs', source='body.0'), {}, 'output'),
    'features': (dict(type='kd_plugins.Features', sources=['body.0']), {}, 'output'),
    'input': (dict(type='ModuleInputs', source='body.1'), dict(data_idx=0), 'input'),
    'input of features': (
        dict(type='kd_plugins.Features', sources=[dict(input_of='body.1')]),
        {},
        'input',
    ),
    'one of the features': (
        dict(type='kd_plugins.Features', sources=['body', dict(input_of='body.1')]),
        dict(data_idx=1),
        'input',
    ),
}


@pytest.mark.parametrize('source', [*INSIDE, 'body'])
@pytest.mark.parametrize('checkpointed', [False, True])
def test_records_inside_of_a_checkpointed_part_are_refused(source, checkpointed):
    """Reentrant checkpointing gives them no graph, so that their term would train nothing."""
    whole = (dict(type='ModuleOutputs', source='body'), {}, 'output')
    recorder, part, said = INSIDE.get(source, whole)
    from_both = {
        f'preds_{side[0].upper()}': dict(recorder='maps', from_student=side == 'student', **part)
        for side in ('student', 'teacher')
    }
    model = MODELS.build(
        algorithm_cfg(
            teacher=STUDENT,
            distiller=dict(
                student_recorders=dict(maps=recorder),
                teacher_recorders=dict(maps=recorder),
                distill_losses=dict(loss_maps=dict(type='kd_plugins.ReviewKDLoss')),
                loss_forward_mappings=dict(loss_maps=from_both),
            ),
        )
    )
    body, inputs, labels = model.student.body, *batch()
    if checkpointed:
        whole = body.forward
        body.forward = lambda x: checkpoint(whole, x, use_reentrant=True)
        inputs.requires_grad_()
    if checkpointed and source != 'body':
        read = r"loss_maps: preds_S reads 'body\.\d' of the student, whose %s has no graph"
        with pytest.raises(RuntimeError, match=read % said):
            model.loss(inputs, labels)
        return
    model.loss(inputs, labels)['distill.loss_maps'].backward()
    assert all(p.grad is not None for p in body[0].parameters())


def test_what_the_teacher_is_asked_about_inside_of_a_checkpointed_part_is_refused():
    cfg = distiller(
        student_recorders=dict(inside=dict(type='ModuleOutputs', source='body.0')),
        teacher_recorders=dict(
            logits=dict(type='ModuleOutputs', source='fc'),
            asked=dict(type='kd_plugins.TeacherPart', question='inside', modules=['body.1', 'fc']),
        ),
        loss_forward_mappings=dict(
            loss_kd=dict(
                preds_S=dict(recorder='asked', from_student=False),
                preds_T=dict(recorder='logits', from_student=False),
            )
        ),
    )
    model, (inputs, labels) = build(teacher=STUDENT, distiller=cfg), batch()
    assert model.loss(inputs, labels)['distill.loss_kd'].requires_grad
    model = build(teacher=STUDENT, distiller=cfg)
    forward = model.student.body.forward
    model.student.body.forward = lambda x: checkpoint(forward, x, use_reentrant=True)
    with pytest.raises(
        RuntimeError, match=r"loss_kd: preds_S reads 'body\.0' of the student, whos"
    ):
        model.loss(inputs.requires_grad_(), labels)
