"""PAVER: Panoramic Vision Transformer for Saliency Detection in 360 Videos (arXiv:2209.08956, ECCV 2022).

What stands out in a video shot all around can be found without anybody's gaze: by how far a patch's feature is from its
frame's, its own past and its surroundings (E8-E10). The features are those of a vision transformer that knows flat
pictures only; its patches are cut from planes that touch the sphere (E1-E5), so that an object looks alike to it at
all latitudes. One block lets the patches of a window look at each other (E6-E7), and learns that features change little
from place to place and from frame to frame (E12-E14). Equation numbers refer to docs/methods/paver.md.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ommatid.data.rated_videos import open_rated
from ommatid.data.worlds.sphere import SphereWorld
from ommatid.dense.geometry_probe import object_similarity
from ommatid.dense.panoramic_encoder import Geometry, PanoramicEncoder
from ommatid.dense.paver_quality import OpinionAgreement, WatchedQuality, opinion_agreement, watched_quality
from ommatid.dense.saliency_data import SaliencyData
from ommatid.dense.saliency_metrics import correlation
from ommatid.dense.saliency_predictor import CLS, Maps, Patches, SaliencyPredictor, Valid, scored_maps
from ommatid.dense.saliency_task import SaliencyBatch
from ommatid.engine.checkpoint import Checkpoint, rename
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError, unknown
from ommatid.losses.feature_consistency import (
    cls_consistency_loss,
    released_cls_consistency_loss,
    released_spatial_consistency_loss,
    released_temporal_consistency_loss,
    spatial_consistency_loss,
    temporal_consistency_loss,
)
from ommatid.nn.relative_saliency import combined_saliency, relative_saliency, saliency_heatmap
from ommatid.nn.space_time_attention import SpaceBlock, SpaceTimeBlock, TokenMLP
from ommatid.nn.sphere import cartesian_adjacency, patch_centres, spherical_adjacency, spherical_gaussian_basis

PUBLISHED = "vit_base_patch16_224.augreg_in21k_ft_in1k"
BLOCKS = {"space-time": SpaceTimeBlock, "space": SpaceBlock}
ADJACENCIES = {"spherical": spherical_adjacency, "cartesian": cartesian_adjacency}
VIEW = 8
"""Patches along each side of a picture that an encoder is pre-trained on."""
RELEASED_NAMES = ((r"^attn_layer\.", "fusion."), (r"^cls_encoder\.", "cls_mlp."))
RELEASED_CONSTANTS = (
    "sph_basis",
    "spatial_weight",
    "adjacency_matrix",
    "temp_score_weight",
    "spat_score_weight",
)
"""What the release saves besides: computed from the size of the pictures, or never used."""


class PAVER(SaliencyPredictor):
    """PAVER (arXiv:2209.08956): saliency all around, without labels, from a frozen vision transformer (E1-E14).

    Args:
        height: rows of the frames.
        window: frames that look at each other.
        encoder: vision transformer of timm, or "tiny" (patches of 8 pixels, 64 features, 4 blocks); see
            `PanoramicEncoder`.
        encoder_weights: "pretrained" for timm's, or a file of them; where None, the encoder is first trained for
            `encoder_steps` updates to name the textures of rendered discs in `encoder_views` flat pictures.
        geometry: "spherical", or "planar" patches of the picture itself (E1-E4).
        exact, circular: patches that meet, and that read across the seam; both False as released.
        attention: what a patch looks at: its frame and its own past ("space-time", as published), or its frame (E7).
        heads: of the attention.
        sigma: width of the hill that a patch's score becomes, in pixels (E11).
        local, temporal, spatial: weights of the three scores (E8-E10).
        spatial_loss, temporal_loss, cls_loss: weights of the losses (E12-E14).
        adjacency: which patches are neighbours, on the sphere or in the picture (E12).
        released_losses: what the authors' code computes for E12-E14: two of them shrink features.
        recipe: optimiser and schedule.
    """

    trained_elsewhere = ("encoder",)
    basis: Tensor
    neighbours: Tensor
    embedded = {
        "model": {
            "encoder": "tiny",
            "encoder_steps": 150,
            "sigma": 4.0,
            "recipe": {"lr": 2e-4},
        },
        "data": {"height": 64, "batch_size": 4, "world": {"train": 40, "val": 8, "test": 24}},
        "trainer": {"max_steps": 120, "max_epochs": -1},
    }

    def __init__(
        self,
        height: int = 224,
        window: int = 5,
        encoder: str = PUBLISHED,
        encoder_weights: str | None = None,
        encoder_steps: int = 0,
        encoder_views: int = 1500,
        geometry: Geometry = "spherical",
        exact: bool = True,
        circular: bool = True,
        attention: Literal["space-time", "space"] = "space-time",
        heads: int = 8,
        sigma: float = 16.0,
        local: float = 1.0,
        temporal: float = 1.0,
        spatial: float = 1.0,
        spatial_loss: float = 0.5,
        temporal_loss: float = 20.0,
        cls_loss: float = 0.1,
        adjacency: Literal["spherical", "cartesian"] = "spherical",
        released_losses: bool = False,
        recipe: Recipe = Recipe("adam", lr=2e-7, weight_decay=1e-3, schedule="constant", decay_vectors=True),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        for name, value, known in (("attention", attention, BLOCKS), ("adjacency", adjacency, ADJACENCIES)):
            if value not in known:
                raise unknown(name, value, known)
        self.encoder = PanoramicEncoder(encoder, height, encoder_weights, geometry, exact, circular)
        self.encoder.requires_grad_(False)
        self.encoder_is_trained = encoder_weights is not None
        dim, rows = self.encoder.dim, self.encoder.rows
        self.fusion = BLOCKS[attention](dim, heads)
        self.cls_mlp = TokenMLP(dim, dim)
        basis = spherical_gaussian_basis(height, patch_centres(rows), sigma)
        # Follows from the settings, and is the largest tensor of all: no part of a checkpoint.
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("neighbours", ADJACENCIES[adjacency](rows), persistent=False)

    # -- the frozen encoder --

    def adopt(self, data: DataModule) -> None:
        """An encoder without weights first learns flat pictures."""
        assert isinstance(data, SaliencyData)
        if not self.encoder_is_trained:
            steps = int(self.hparams.encoder_steps)
            if steps < 1:
                raise InputError(
                    "encoder_weights: found none, expected 'pretrained', a file, or encoder_steps above 0 to train the "
                    "encoder on rendered views"
                )
            size = VIEW * self.encoder.patch_size
            world = data.world if data.root is None else SphereWorld(background="panoramas", seed=data.seed)
            images, labels = world.views(int(self.hparams.encoder_views), size=size)
            self.encoder.learn_from_views(images, labels, steps, seed=data.seed)
            self.encoder.requires_grad_(False)
            self.encoder_is_trained = True
        super().adopt(data)

    def extras(self) -> dict[str, Any]:
        return {**super().extras(), "encoder_is_trained": self.encoder_is_trained}

    def restore_extras(self, extras: dict[str, Any]) -> None:
        super().restore_extras(extras)
        self.encoder_is_trained = extras["encoder_is_trained"]

    def checkpoint(self) -> Checkpoint:
        """The encoder's weights stand in it; their file need not exist any more when it is loaded."""
        written = super().checkpoint()
        return replace(written, settings={**written.settings, "encoder_weights": None})

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors' decoder under our names; their encoder is timm's, and is given by `encoder_weights`."""
        decoder = {name: value for name, value in state.items() if name not in RELEASED_CONSTANTS}
        found = {rename(name, RELEASED_NAMES): value for name, value in decoder.items()}
        kept = {name: value for name, value in self.state_dict().items() if name.startswith("encoder.")}
        return {**kept, **found}

    # -- saliency --

    def features(self, patches: Patches, cls: CLS, valid: Valid | None) -> tuple[Patches, CLS]:
        """Patches that have seen each other (E7), and what the CLS token is compared with them as (E6)."""
        return self.fusion(patches, valid), self.cls_mlp(cls)

    def heat_maps(self, patches: Patches, cls: CLS, valid: Valid | None = None) -> Maps:
        return self.heat_of(*self.features(patches, cls, valid), valid)

    def heat_of(self, patches: Patches, cls: CLS, valid: Valid | None = None) -> Maps:
        """The maps of features as they are (E8-E11)."""
        weights = {name: float(self.hparams[name]) for name in ("local", "temporal", "spatial")}
        scores = relative_saliency(patches, cls, valid)
        return saliency_heatmap(combined_saliency(scores, weights), self.basis)

    def score(self, batch: SaliencyBatch) -> dict[str, Float[Tensor, "frame"]]:
        """Beside the field's: what the encoder's own tokens are worth, before anything was trained on them."""
        found = super().score(batch)
        frozen = scored_maps(self.heat_of(batch.patches, batch.cls, batch.valid), batch)
        before = correlation(frozen, batch.saliency[batch.scored]).to(found["CC"])
        high = torch.where(found["CC_high"].isnan(), torch.nan, before)
        return {**found, "frozen_CC": before, "frozen_CC_high": high}

    # -- training --

    def training_step(self, batch: SaliencyBatch, _: int) -> Tensor:
        """Features that change little from patch to patch and from frame to frame (E12-E14)."""
        settings = self.hparams
        patches, cls = self.features(batch.patches, batch.cls, batch.valid)
        if settings.released_losses:
            parts = {
                "space": released_spatial_consistency_loss(patches, batch.valid),
                "time": released_temporal_consistency_loss(patches, batch.valid),
                "cls": released_cls_consistency_loss(cls, batch.valid),
            }
        else:
            parts = {
                "space": spatial_consistency_loss(patches, self.neighbours, batch.valid),
                "time": temporal_consistency_loss(patches, batch.valid),
                "cls": cls_consistency_loss(cls, batch.valid),
            }
        weights = {"space": settings.spatial_loss, "time": settings.temporal_loss, "cls": settings.cls_loss}
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        self.report(loss=loss, **parts)
        return loss

    # -- measurements and uses --

    def read_outs(self, data: DataModule) -> dict[str, float]:
        """How alike the patch tokens of one object are at several latitudes."""
        return object_similarity(
            lambda images: self.encoder.patch_tokens(images).float().cpu(), self.encoder.height, self.encoder.rows
        )

    def quality(self, reference: str | Path, distorted: str | Path, frames: int | None = None) -> WatchedQuality:
        """How much worse a distorted video all around is where people look, see `watched_quality` (G)."""
        return watched_quality(self, Path(reference), Path(distorted), frames)

    def rated_quality(self, root: str | Path, split: str = "test", frames: int | None = None) -> OpinionAgreement:
        """How well quality agrees with what people thought of the videos of a folder, see `open_rated` (G)."""
        return opinion_agreement(self, open_rated(root, split), frames)


_ARMS = {
    "spherical exact": Arm("method", {}),
    "planar": Arm("baseline", {"geometry": "planar"}),
    "spherical as released": Arm("reported", {"exact": False, "circular": False}),
}
_TUNING: dict[str, tuple[Any, ...]] = {"recipe.lr": (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)}
_SHOWN = ("CC", "CC_high", "sphere_CC", "frozen_CC", "frozen_CC_high", "SIM", "AUC_Judd", "AUC_Borji", "NSS", "KLD")
_SIMILARITY = ("similarity", "similarity_34", "similarity_56", "similarity_79")

PAVER.claims = (
    Claim(
        name="paver",
        statement="Without labels, saliency from patches of the sphere correlates better with where the objects are "
        "than saliency from the same vision transformer's planar patches, in all frames and where objects are at high "
        "latitudes.",
        arms=_ARMS,
        criteria=(
            Criterion("CC", versus="planar", margin=0.02),
            Criterion("CC_high", versus="planar", margin=0.02),
        ),
        model=PAVER.embedded["model"],
        data=PAVER.embedded["data"],
        trainer=PAVER.embedded["trainer"],
        tuning=_TUNING,
        shown=_SHOWN,
        source="docs/methods/paver.md, claim 2",
    ),
    Claim(
        name="paver-geometry",
        statement="Patches of the sphere give tokens of the same object at 11 degrees of latitude and at 34, 56 and 79 "
        "degrees that are more alike than those of planar patches.",
        arms=_ARMS,
        criteria=tuple(Criterion(name, versus="planar", margin=0.01) for name in _SIMILARITY),
        model=PAVER.embedded["model"],
        data=PAVER.embedded["data"],
        trainer=PAVER.embedded["trainer"],
        tuning=_TUNING,
        tuning_metric="CC",
        shown=_SIMILARITY,
        source="docs/methods/paver.md, claim 1",
    ),
)
