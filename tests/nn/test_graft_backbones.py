"""Every block of the table in docs/grafting.md goes into every backbone of it, steps, and comes out again."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/grafts.py"
spec = importlib.util.spec_from_file_location("grafts", SCRIPT)
grafts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(grafts)

# Transformers cut images into patches by one convolution, which has no odd kernel and no blocks of input channels.
WITHOUT_CONVOLUTIONS = {"vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"}


@pytest.mark.parametrize("backbone", grafts.BACKBONES)
@pytest.mark.parametrize("block", grafts.BLOCKS)
def test_a_block_steps_inside_a_backbone(block, backbone):
    found = grafts.try_graft(backbone, block)
    if backbone in WITHOUT_CONVOLUTIONS and block in grafts.FOLDING:
        assert isinstance(found, str)
        assert "convolution" in found
    else:
        assert found["parameters"] or block == "TemporalShift"


@pytest.mark.parametrize("backbone", grafts.BACKBONES)
def test_the_label_decoder_reads_every_backbone(backbone):
    assert grafts.try_label_decoder(backbone)["parameters"] > 0
