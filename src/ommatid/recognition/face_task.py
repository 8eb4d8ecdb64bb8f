"""The contract of face recognition: a picture of a face in, an embedding whose cosine tells people apart out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.engine.batch import Batch


@dataclass
class FaceBatch(Batch):
    """Pictures of faces in [0, 1] and whose they are.

    Attributes:
        labels: identity, numbered within the split.
        listed: True where the split is a list of pairs, images 2i and 2i + 1, and is judged by these alone; labels are
            then those of the pairs: equal for two pictures of one person.
        index: position of the image in its split.
    """

    images: Float[Tensor, "batch channel height width"]
    labels: Int[Tensor, "batch"]
    listed: Bool[Tensor, "batch"]
    index: Int[Tensor, "batch"]


@dataclass(frozen=True)
class FaceComparison:
    """Whether two pictures of a user's own show one person.

    Attributes:
        cosine: of their embeddings.
        threshold: the cosine from which they are taken for one person: of strangers, one pair in a hundred reaches it.
    """

    images: tuple[Float[Tensor, "channel height width"], Float[Tensor, "channel height width"]]
    cosine: float
    threshold: float

    @property
    def same(self) -> bool:
        return self.cosine >= self.threshold

    def to_json(self) -> dict[str, Any]:
        return {"cosine": round(self.cosine, 4), "threshold": round(self.threshold, 4), "same": self.same}

    def draw(self, path: Path) -> None:
        from ommatid.recognition.face_draw import draw_comparison

        draw_comparison(self.images, self.cosine, self.threshold, path)


@dataclass(frozen=True)
class FaceRanking:
    """The people of a gallery, those most like a user's picture first.

    Attributes:
        people: name and cosine of everybody.
        faces: a picture of each, in the same order.
        threshold: as of `FaceComparison`.
    """

    image: Float[Tensor, "channel height width"]
    people: list[tuple[str, float]]
    faces: list[Float[Tensor, "channel height width"]]
    threshold: float

    def to_json(self) -> dict[str, Any]:
        people = [
            {"name": name, "cosine": round(value, 4), "same": value >= self.threshold} for name, value in self.people
        ]
        return {"people": people, "threshold": round(self.threshold, 4)}

    def draw(self, path: Path) -> None:
        from ommatid.recognition.face_draw import draw_ranking

        draw_ranking(self.image, self.people, self.faces, self.threshold, path)
