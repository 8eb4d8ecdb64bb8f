"""`FaceRecogniser`: the base of every method that embeds faces."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.data.images import class_folders, existing_folder, images_in, is_clutter, read_image, subfolders
from ommatid.engine.data import DataModule
from ommatid.engine.method import Method
from ommatid.errors import InputError
from ommatid.nn.blur import gaussian_blur
from ommatid.recognition.face_data import FaceData
from ommatid.recognition.face_scores import FaceScores, compared
from ommatid.recognition.face_task import FaceBatch, FaceComparison, FaceRanking
from ommatid.recognition.verification import roc

Images = Float[Tensor, "batch channel height width"]
Embeddings = Float[Tensor, "batch dim"]
FAR = 1e-2
"""Share of pairs of strangers that `settle` lets pass for one person."""


class FaceRecogniser(Method):
    """Faces in [0, 1] in, embeddings out: a subclass implements `forward(images) -> embeddings` and `training_step`.

    Its arguments are among others `num_identities`, `channels`, `image_size`, and `test_blurs`: deviations (in pixels)
    of the Gaussian blurs under which test pictures are verified too.
    """

    data_module = FaceData
    monitor = "val/TAR@FAR=1e-2"

    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(0.5))

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, FaceData)
        return {"num_identities": data.identities, "channels": data.channels, "image_size": data.size}

    def align(self, data: DataModule) -> None:
        assert isinstance(data, FaceData)
        data.use(int(self.hparams.image_size), int(self.hparams.channels))

    def identity(self, batch: FaceBatch) -> Int[Tensor, "batch"]:
        return batch.index

    def embed(self, images: Images) -> Embeddings:
        """What faces are compared by, of length one."""
        return F.normalize(self(images).float())

    def score(self, batch: FaceBatch) -> dict[str, Float[Tensor, "batch _"]]:
        """What `FaceScores` gathers: embeddings of the pictures as they are, and of blurred ones."""
        embeddings = {"": self.embed(batch.images)}
        for sigma in self.hparams.test_blurs:
            embeddings[f"blur {sigma:g}"] = self.embed(gaussian_blur(batch.images, float(sigma)))
        return {"labels": batch.labels.float()[:, None], "listed": batch.listed.float()[:, None], **embeddings}

    def new_scores(self) -> FaceScores:
        return FaceScores()

    def settle(self) -> None:
        """The cosine that one pair of strangers in a hundred of the validation data reaches."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is not None:
            self.choose_threshold(data)

    @torch.no_grad()
    def choose_threshold(self, data: FaceData) -> None:
        training = self.training
        self.eval()
        batches = [batch.to(self.device) for batch in data.val_dataloader()]
        embeddings = torch.cat([self.embed(batch.images) for batch in batches])
        labels = torch.cat([batch.labels for batch in batches])
        scores, same = compared(embeddings, labels, data.sets["val"].listed)
        if 0 < int(same.sum()) < len(same) and bool(scores.isfinite().all()):
            curve = roc(scores, same, every_point=True)
            # The first point accepts nobody, from an infinite threshold on.
            nearest = 1 + int((curve.far[1:] - FAR).abs().argmin())
            self.threshold.fill_(float(curve.thresholds[nearest]))
        self.train(training)

    @torch.no_grad()
    def predict(
        self, image: str | Path, other: str | Path | None = None, gallery: str | Path | None = None
    ) -> FaceComparison | FaceRanking:
        """Whether your pictures show one person, or who of a gallery one shows.

        Args:
            image: picture of an aligned face; it is resized to what the method was trained on.
            other: another one, to be compared with it.
            gallery: folder of pictures named by who they show, or with a folder of pictures for everybody.

        Raises:
            InputError: neither or both of `other` and `gallery` are given, or a picture is missing or unreadable.
        """
        self.eval()
        face = self.read(image)
        if (other is None) == (gallery is None):
            found = "neither" if other is None else "both"
            raise InputError(f"predict: found {found} of other and gallery, expected a second picture or a gallery")
        if other is not None:
            second = self.read(other)
            first, last = self.embed(torch.stack([face, second]).to(self.device))
            return FaceComparison((face, second), float(first @ last), float(self.threshold))
        people = gallery_of(Path(str(gallery)))
        wanted = self.embed(face[None].to(self.device))[0]
        cosines, faces = [], []
        # Person by person: a gallery may not fit into memory at once.
        for pictures in people.values():
            shown = torch.stack([self.read(picture) for picture in pictures])
            known = F.normalize(self.embed(shown.to(self.device)).mean(dim=0), dim=0)
            cosines.append(float(wanted @ known))
            faces.append(shown[0])
        order = torch.tensor(cosines).argsort(descending=True).tolist()
        names = list(people)
        ranked = [(names[place], cosines[place]) for place in order]
        return FaceRanking(face, ranked, [faces[place] for place in order], float(self.threshold))

    def read(self, picture: str | Path) -> Float[Tensor, "channel height width"]:
        """A picture file as the method expects it."""
        return read_image(picture, int(self.hparams.channels), int(self.hparams.image_size)).float() / 255

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """A plain-tensor network, example inputs, and the names of inputs and outputs."""
        size, channels = int(self.hparams.image_size), int(self.hparams.channels)
        example = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
        return _Embedding(self), (example,), ("images",), ("embeddings",)


class _Embedding(nn.Module):
    def __init__(self, recogniser: FaceRecogniser) -> None:
        super().__init__()
        self.recogniser = recogniser

    def forward(self, images: Tensor) -> Tensor:
        return self.recogniser.embed(images)


def gallery_of(folder: Path) -> dict[str, list[Path]]:
    """The pictures of everybody in a gallery.

    Raises:
        InputError: the folder is missing or has no pictures.
    """
    if subfolders(existing_folder(folder)):
        return {person.name: images_in(person) for person in class_folders(folder)}
    if not any(path.is_file() and not is_clutter(path.relative_to(folder)) for path in folder.iterdir()):
        raise InputError(f"{folder}: found no pictures, expected some of everybody in the gallery")
    return {picture.stem: [picture] for picture in images_in(folder)}
