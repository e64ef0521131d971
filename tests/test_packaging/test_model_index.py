"""The model index, by the package that upstream reads it with."""

from helpers import ROOT
from modelindex.load_model_index import load


def test_is_valid_and_its_files_exist():
    index = load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    # OpenMMLab and mim count paths from the repository, model-index from the metafile.
    assert not [error for error in index.check(silent=True) if 'valid file' not in error]
    models = index.models.data
    listed = {model.config for model in models}
    assert listed and all((ROOT / path).is_file() for path in listed)
    assert all((ROOT / collection.readme).is_file() for collection in index.collections.data)
    assert all(model.name == model.config.split('/')[-1].removesuffix('.py') for model in models)


def test_every_method_folder_is_listed():
    folders = {path.parent.name for path in (ROOT / 'configs').glob('*/metafile.yml')}
    text = (ROOT / 'model-index.yml').read_text()
    assert folders and all(f'configs/{folder}/metafile.yml' in text for folder in folders)
