"""The classes for training: rows that describe images, and random halvings of all classes."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """One image: its path below the folder of images, the number and name of its class."""

    path: str
    number: int
    name: str
    group: int | None = None  #: the number of its coarse class, where the set has coarse classes
    group_name: str = ""
    role: str = ""  #: the split of the image if its class is not for training; "" if the set does not say

    @property
    def unit(self) -> int:
        """The number of what is not divided: the coarse class, or else the class."""
        return self.number if self.group is None else self.group


Rows = dict[str, list[Row]]  # of each split, "train" first


def training_half(units: Iterable[int], class_split: int) -> set[int]:
    """Return the classes, or coarse classes, that are for training in class_split 1 to 10.

    Class splits 2k - 1 and 2k take the first half (rounded down) and the second half of one random order of
    the sorted `units`, which depends on their number and on k alone.
    """
    ordered = sorted(set(units))
    generator = torch.Generator().manual_seed((class_split + 1) // 2)
    order = torch.randperm(len(ordered), generator=generator).tolist()
    middle = len(ordered) // 2
    return {ordered[index] for index in (order[:middle] if class_split % 2 else order[middle:])}


def halve(rows: Rows, class_split: int) -> Rows:
    """Split the rows of all splits again by `training_half`, of coarse classes where the set has any.

    The images of the other classes keep their split, or get that of their `role`. Where a set does not say
    which images of a class are queries, they alternate, beginning with the gallery.
    """
    chosen = training_half((row.unit for found in rows.values() for row in found), class_split)
    tests, turns = list(rows)[1:], Counter()
    halves: Rows = {split: [] for split in rows}
    for split, found in rows.items():
        for row in found:
            if row.unit in chosen:
                halves["train"].append(row)
            elif split in tests or row.role:
                halves[row.role or split].append(row)
            else:
                halves[tests[-1 - turns[row.number] % len(tests)]].append(row)
                turns[row.number] += 1
    return halves
