"""Writing the config of a distillation from two upstream configs."""
