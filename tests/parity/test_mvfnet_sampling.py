"""Test-time sampling of clips picks the authors' frames (arXiv:2012.06977, E6)."""

from ommatid.data.clips import clip_indices
from parity.fixture import load_fixture

NAMES = {"num_frames": "frames", "clip_len": "clip_length", "frame_interval": "interval", "num_clips": "clips"}


def test_every_recorded_video():
    sampling = load_fixture("mvfnet-sampling")
    columns = [NAMES.get(column, column) for column in sampling.config["columns"]]
    for number, row in enumerate(sampling.array("in/cases").astype(int).tolist()):
        case = dict(zip(columns, row, strict=True))
        indices = clip_indices(**case)
        assert indices.shape == (case["offset_sets"] * case["clips"], case["clip_length"])
        sampling.assert_close(indices.flatten(), f"out/indices_{number}")
