"""Detection average precision equals the recorded numbers of the ActivityNet evaluation."""

import torch

from ommatid.grounding.detection import Detections, detection_ap
from parity.fixture import load_fixture


def test_average_precision_of_every_class_and_overlap():
    fixture = load_fixture("dcin-tel-map")
    true, found = fixture.tensor("in/gt").double(), fixture.tensor("in/pred").double()
    ap = detection_ap(
        Detections(found[:, 0].long(), found[:, 1].long(), found[:, 2:4], found[:, 4]),
        Detections(true[:, 0].long(), true[:, 1].long(), true[:, 2:4]),
        fixture.config["classes"],
        tuple(fixture.array("in/tiou").tolist()),
    )
    fixture.assert_close(ap, "out/ap")
    fixture.assert_close(ap.nanmean(dim=0), "out/map")
    fixture.assert_close(torch.nanmean(ap.nanmean(dim=0)).reshape(1), "out/average_map")
