"""How saliency maps of videos are scored: every frame, then the mean of a video, then the mean over videos."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ommatid.dense.saliency_metrics import latitude_weights, saliency_metrics, video_means
from ommatid.engine.scores import SampleScores

Maps = Float[Tensor, "frame height width"]
FRAMES_PER_VIDEO = 1 << 24
HIGH = 45.0
"""Degrees of latitude."""
NAMES = {"cc": "CC", "sim": "SIM", "auc_judd": "AUC_Judd", "auc_borji": "AUC_Borji", "nss": "NSS", "kld": "KLD"}


class VideoScores(SampleScores):
    """Mean over the frames of a video of each score, then over the videos; NaN marks a frame without the score.

    A score that no frame has is left out; a split whose maps nobody knows has none.

    Examples:
        >>> scores = VideoScores()
        >>> frames = frame_identity(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]))
        >>> scores.update(frames, {"CC": torch.tensor([0.1, 0.3, 0.6])})
        >>> {name: round(value, 4) for name, value in scores.compute().items()}
        {'CC': 0.4}
    """

    def compute(self) -> dict[str, float]:
        identity, values = self.table()
        if not len(identity):
            return {}
        videos = identity.div(FRAMES_PER_VIDEO, rounding_mode="floor")
        known = ~values.isnan()
        columns = zip(self.names, values.double().unbind(dim=1), known.unbind(dim=1), strict=True)
        return {name: float(video_means(column[has], videos[has]).mean()) for name, column, has in columns if has.any()}


def frame_identity(video: Int[Tensor, "frame"], frame: Int[Tensor, "frame"]) -> Int[Tensor, "frame"]:
    """One number for every frame of a split."""
    return video * FRAMES_PER_VIDEO + frame


def frame_scores(predicted: Maps, density: Maps, identity: Int[Tensor, "frame"]) -> dict[str, Float[Tensor, "frame"]]:
    """What Wild360 is evaluated by (E15-E17), NSS and KLD; and CC in two other ways. A prediction that holds NaN or
    infinity has the worst scores there are.

    "sphere_CC" counts pixels by how large they are on the sphere; "CC_high" is CC where at least half of what people
    looked at lies above 45 degrees of latitude, north or south, and NaN elsewhere.

    Args:
        identity: the noise in which ties are broken, and the pixels that are drawn for AUC_Borji, follow from it: a
            frame is scored alike in every batch and on any number of processes.
    """
    device = predicted.device
    if not len(predicted):
        return {name: predicted.new_zeros(0) for name in (*NAMES.values(), "sphere_CC", "CC_high")}
    predicted, density = predicted.float().cpu(), density.float().cpu()
    scores = saliency_metrics(predicted, density, ("cc", "sim", "nss", "kld"))
    # Frame by frame: each has noise of its own.
    drawn = [
        saliency_metrics(map[None], truth[None], ("auc_judd", "auc_borji"), seed=seed)
        for map, truth, seed in zip(predicted, density, identity.tolist(), strict=True)
    ]
    for name in ("auc_judd", "auc_borji"):
        scores[name] = torch.cat([each[name] for each in drawn])
    named = {NAMES[name]: scores[name] for name in NAMES}
    named["sphere_CC"] = saliency_metrics(predicted, density, ("cc",), sphere_weighted=True)["cc"]
    named["CC_high"] = torch.where(share_at_high_latitude(density) >= 0.5, named["CC"], torch.nan)
    return {name: score.to(device) for name, score in named.items()}


def share_at_high_latitude(density: Maps, degrees: float = HIGH) -> Float[Tensor, "frame"]:
    """Which share of a map, as it lies on the sphere, is further than so many degrees from the equator.

    Examples:
        >>> north = torch.zeros(1, 8, 16)
        >>> north[:, 0] = 1.0
        >>> share_at_high_latitude(torch.cat([north, north.roll(4, dims=1)])).tolist()
        [1.0, 0.0]
    """
    height, width = density.shape[1:]
    latitude = (90 - (torch.arange(height, device=density.device) + 0.5) * 180 / height).abs()
    rows = (density.clamp(min=0) * latitude_weights(height, width).to(density)).sum(dim=2)
    return (rows * (latitude > degrees)).sum(dim=1) / rows.sum(dim=1).clamp(min=1e-12)
