"""tools/generate_pictures.py over real pipelines of diffusers with tiny random weights.

    python tests/generation/real_pipeline.py

It takes diffusers, which the tests' environments do not have: 21 MB and bound to versions
of huggingface_hub, for one tool. The suite has a stand-in that is called as a pipeline is
(tests/test_datasets/test_generation.py). Seen to pass with diffusers 0.42.1, huggingface_hub
2.4.0 and torch 2.12.1, on a CPU, without a network.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, Transformer2DModel

ROOT = Path(__file__).resolve().parents[2]


def dit(folder: Path) -> Path:
    """Write a DiT for four classes and pictures of 16 x 16 pixels."""
    torch.manual_seed(0)
    transformer = Transformer2DModel(
        sample_size=8, num_layers=2, patch_size=4, attention_head_dim=8, num_attention_heads=2,
        in_channels=4, out_channels=8, attention_bias=True, activation_fn='gelu-approximate',
        num_embeds_ada_norm=1000, norm_type='ada_norm_zero', norm_elementwise_affine=False,
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=['DownEncoderBlock2D'] * 2, up_block_types=['UpDecoderBlock2D'] * 2,
        block_out_channels=[8, 8], norm_num_groups=2, latent_channels=4,
    )  # fmt: skip
    DiTPipeline(transformer.eval(), vae.eval(), DDIMScheduler()).save_pretrained(folder)
    return folder


def draw(*options: str) -> str:
    """Run the tool offline; return what it prints."""
    line = [sys.executable, str(ROOT / 'tools/generate_pictures.py'), *options]
    environment = dict(os.environ, HF_HUB_OFFLINE='1', PYTHONPATH=os.pathsep.join(sys.path))
    reply = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert reply.returncode == 0, reply.stdout + reply.stderr
    return reply.stdout


def main() -> None:
    """Draw at once, and in two halves of which one loses pictures; compare."""
    folder = Path(tempfile.mkdtemp())
    what = ['--pipeline', str(dit(folder / 'dit')), '--classes', '0-3', '--seeds', '0-1',
            '--per-seed', '2', '--steps', '3', '--size', '16', '--device', 'cpu']  # fmt: skip
    print(draw(*what, '--out', str(folder / 'whole')))
    for i in range(2):
        print(draw(*what, '--out', str(folder / 'parts'), '--process', f'{i}/2'))
    for name in ('class_1_seed_0_num_1.png', 'class_3_seed_1_num_0.png'):
        (folder / 'parts' / name).unlink()
    print(draw(*what, '--out', str(folder / 'parts')))
    index = (folder / 'whole/s2_st3_16.txt').read_text().split()
    assert len(index) == 16
    pictures = {}
    for name in index:
        one, other = (cv2.imread(str(folder / each / name)) for each in ('whole', 'parts'))
        pictures[name] = one
        assert pictures[name].shape == (16, 16, 3) and (pictures[name] == other).all()
    # Another seed is another picture, and so is another class.
    first = pictures['class_0_seed_0_num_0.png']
    for other in ('0_seed_1_num_0', '0_seed_0_num_1', '1_seed_0_num_0'):
        assert np.abs(first.astype(int) - pictures[f'class_{other}.png']).max() > 0, other
    print(draw(*what, '--out', str(folder / 'other'), '--scheduler', 'DDPMScheduler'))
    print('all of it is as it should be')


if __name__ == '__main__':
    main()
