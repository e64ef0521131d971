# torchvision's ResNets as teachers and as students, which start as torchvision's do. A leaf
# takes _base_.teachers.resnet18 and _base_.students.resnet50, say, and deletes both.
teachers, students = (
    {
        f'resnet{depth}': dict(
            cfg_path=f'mmpretrain::resnet/resnet{depth}_8xb32_in1k.py', **changes
        )
        for depth in (18, 34, 50)
    }
    for changes in (
        {},
        dict(backbone=dict(zero_init_residual=False), head=dict(init_cfg=None)),
    )
)
