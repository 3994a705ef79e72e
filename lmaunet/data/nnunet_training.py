"""What an imported checkpoint says of its training by nnU-Net, and which cases that leaves unseen.

nnU-Net trains a fold on the cases of its ``splits_final.json``. Where there is no such file it
divides the sorted cases in five, as scikit-learn's ``KFold(5, shuffle=True, random_state=12345)``
does; :func:`usual_folds` does the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmaunet.data.division import SPLITS_FILE, Division, divide_cases, tally, without_labels
from lmaunet.data.nnunet_recipe import NnunetRecipe
from lmaunet.data.patients import Patients
from lmaunet.data.user_json import is_name, read_user_json, shown
from lmaunet.errors import UserError

FOLDS, SEED = 5, 12345
SEEN = "the network may have been trained on cases that validate here, so that Dice is too high"


@dataclass(frozen=True)
class NnunetTraining:
    """How nnU-Net prepared images for a network, and which cases it did not train on.

    Args:
        recipe: how images are prepared.
        fold: the trained one, ``0`` to ``4`` mostly, or ``all``; empty where it is not known.
        held_out: the cases that the fold validates on, by name; None where they are not known.
        channels: names, in the network's order; empty where they are not known.
    """

    recipe: NnunetRecipe
    fold: str = ""
    held_out: tuple[str, ...] | None = None
    channels: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "recipe": self.recipe.to_json(),
            "fold": self.fold,
            "held_out": None if self.held_out is None else list(self.held_out),
            "channels": list(self.channels),
        }

    @staticmethod
    def from_json(content: Any) -> NnunetTraining:
        """Return what :meth:`to_json` wrote, or the note of an import; other keys are ignored.

        Raises:
            UserError: for anything else.
        """
        try:
            recipe = NnunetRecipe.from_json(content["recipe"])
            fold, cases = content.get("fold", ""), content.get("held_out")
            channels = content.get("channels", [])
            lists = [channels, [] if cases is None else cases, [fold]]
            if not all(isinstance(found, list) and all(map(_is_text, found)) for found in lists):
                raise TypeError(f"fold {shown(fold)}, cases {shown(cases)}: expected names")
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"no note of nnU-Net's training ({error!r}); import its folder again"
            ) from error
        return NnunetTraining(recipe, fold, None if cases is None else tuple(cases),
                              tuple(channels))  # fmt: skip

    def check_channels(self, names: Sequence[str]) -> None:
        """Raise UserError where data have the network's channels in another order."""
        if sorted(names) == sorted(self.channels) and tuple(names) != self.channels:
            raise UserError(
                f"the data's channels are {', '.join(names)}, the network was trained on "
                f"{', '.join(self.channels)}; give them in this order"
            )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def usual_folds(cases: Sequence[str]) -> list[list[str]]:
    """Return the cases that each of nnU-Net's folds validates on where no file says it.

    Raises:
        UserError: for fewer cases than folds.

    >>> usual_folds(["f", "e", "d", "c", "b", "a"])[0]
    ['d', 'f']
    """
    import numpy as np

    names = sorted(cases)
    if len(names) < FOLDS:
        raise UserError(f"{len(names)} case(s); expected {FOLDS} or more, one for each fold")
    order = np.arange(len(names))
    np.random.RandomState(SEED).shuffle(order)
    return [[names[i] for i in sorted(part)] for part in np.array_split(order, FOLDS)]


def divide_as_trained(
    training: NnunetTraining,
    folder: Path,
    shows: Mapping[str, frozenset[int]],
    named: Mapping[str, str],
    patients: Patients,
    seed: int,
) -> Division:
    """Divide cases so that those validate that the network has not been trained on.

    They are the fold's: as the import noted them, else as ``splits_final.json`` in the data's
    folder lists them, else as nnU-Net divides by itself. A case of a patient who also trained is
    left aside, because its score would be of what was seen. Where nothing is left that was not
    seen, cases are divided by patient as for any network, and a note says so.

    Args:
        training: the network's.
        folder: the data set's.
        shows: for each case the classes, background aside, that its labels show.
        named: for each case what nnU-Net calls it, the name of its label file.
        patients: the patient of each case.
        seed: draws the cases where no fold tells them.
    """
    held, how = _held_out(training, folder, list(named.values()))
    wanted = {name.lower() for name in held}
    val = {case for case in shows if named[case].lower() in wanted}
    trained = {patients.of[case] for case in shows if case not in val}
    aside = {case for case in val if patients.of[case] in trained}
    val -= aside
    train = {case for case in shows if case not in val and case not in aside}
    if not (any(shows[case] for case in val) and any(shows[case] for case in train)):
        why = f"of {how} no labelled case is left here that could validate; " if held else how
        found = divide_cases(shows, patients, seed)
        return replace(found, notes=(*found.notes, why + SEEN))
    used = {case: shows[case] for case in shows if case not in aside}
    notes = without_labels(used)
    if aside:
        notes += (
            f"{len(aside)} case(s) that {how} validates on are left aside, as they are of patients "
            "on whom it trained",
        )
    chosen = frozenset(val)
    sentence = f"{tally(used, chosen, patients)}, as nnU-Net trained the network: {how}"
    return Division(
        chosen, f"{sentence}; no patient is on both sides: {patients.how}.", notes,
        frozenset(aside),
    )  # fmt: skip


def _held_out(
    training: NnunetTraining, folder: Path, names: Sequence[str]
) -> tuple[Sequence[str], str]:
    """Return the cases that a fold validates on, and a clause on how they are known or why not."""
    fold, path = training.fold, folder / SPLITS_FILE
    if fold == "all":
        return (), "it was trained on all of its cases (fold all); "
    if training.held_out is not None:
        return training.held_out, f"fold {fold or 'unnamed'}"
    index = int(fold) if fold.isdecimal() and len(fold) < 4 else -1
    if path.exists() and index >= 0:
        return listed_cases(path, index), f"fold {fold} of {SPLITS_FILE}"
    if 0 <= index < FOLDS <= len(names):
        return (
            usual_folds(names)[index],
            f"fold {fold} as nnU-Net divides cases where no {SPLITS_FILE} says it",
        )
    return (), f"which cases fold {fold or 'of its training'} held out is not known; "


def listed_cases(path: Path, index: int) -> list[str]:
    """Return the cases that a fold of a ``splits_final.json`` validates on; raises UserError."""
    content = read_user_json(path)
    fold = content[index] if isinstance(content, list) and index < len(content) else None
    cases = fold.get("val") if isinstance(fold, dict) else None
    if not isinstance(cases, list) or not cases or not all(map(is_name, cases)):
        raise UserError(
            f"{path}: no list of cases to val in fold {index}, on which the network was trained; "
            'expected [{"train": ["case1", ...], "val": ["case2", ...]}, ...]; correct or remove it'
        )
    return cases
