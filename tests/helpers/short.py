"""Trainings of a few epochs from configs that are meant for many."""


def shorten(cfg, epochs):
    """Train so many epochs, with every schedule at its end by then."""
    cfg.train_cfg.max_epochs = epochs
    curriculum = cfg.default_hooks.get('curriculum_temperature')
    if curriculum:
        curriculum.length = min(curriculum.length, epochs)
    even = cfg.default_hooks.get('even')
    if even:
        even.number = min(even.number, epochs)
    ctc = cfg.default_hooks.get('ctc')
    if ctc:
        ctc.stage_two_epoch = min(ctc.stage_two_epoch, epochs - 1)
    distiller = cfg.model.get('distiller') or {}
    for term in (distiller.get('distill_losses') or {}).values():
        if isinstance(term.get('warmup'), int):
            term.warmup = min(term.warmup, epochs)
        if 'samples' in term and 'indices' in cfg.train_dataloader.dataset:
            term.samples = cfg.train_dataloader.dataset.indices
    return cfg


def fewer(cfg, number):
    """Train on so many samples of every dataset."""
    dataset = cfg.train_dataloader.dataset
    dataset = dataset.get('dataset', dataset)
    for each in (dataset.get('labelled', dataset), dataset.get('unlabelled', dataset)):
        each.indices = number
