"""What methods of this field predict beside classes: the way that led there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ommatid.classification.task import Classification


@dataclass(frozen=True)
class ExplainedClassification(Classification):
    """Class probabilities of a user's own image, with the way of the first class through a tree of experts.

    Attributes:
        tree: for every step from one level to the next, the parent of each child; the last children are the classes.
        names: of all classes, in the order of the tree.
        winner: number of the most probable class.
    """

    tree: list[list[int]]
    names: list[str]
    winner: int

    @property
    def way(self) -> list[int]:
        """The block of every level that leads to the first class."""
        place, way = self.winner, []
        for step in reversed(self.tree):
            place = step[place]
            way.append(place)
        return way[::-1]

    @property
    def companions(self) -> list[str]:
        """Classes that read the same last block."""
        last = self.tree[-1]
        return [
            name
            for number, name in enumerate(self.names)
            if last[number] == last[self.winner] and number != self.winner
        ]

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "way": self.way, "shares_last_block_with": self.companions}

    def draw(self, path: Path) -> None:
        from ommatid.transfer.draw import draw_explained

        draw_explained(self, path)
