"""What the data say about themselves: copies, doubtful labels, odd pictures and spurious cues, put together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thaw import cluster
from thaw.audit import copies, cues, labels, neighbours, pictures, review
from thaw.audit.neighbours import Neighbours
from thaw.audit.review import Neighbour, Suspect
from thaw.data import corrections
from thaw.data.corrections import Action, Correction
from thaw.data.manifest import Record
from thaw.learning import crossvalidation, examples
from thaw.networks.outputs import Floats, Labels, Saved

WIDEST = 2048  # features; of more, as a network without pooling has them, as many random mixtures are taken
UNLIKE = 2.5  # robust standard deviations below the others, from which on a picture resembles none
NEAR = 5  # pictures that one resembles, if any
BESIDE = 3  # pictures that a suspect is shown beside
AT_ONCE = 2048  # images whose features are read at once
MOST = 60_000  # pictures that are looked at: to compare all with all takes four times as long for twice as many


@dataclass(frozen=True)
class Findings:
    """What an audit has found.

    Attributes:
        figures: the content of ``findings.json``: ``images`` (how many were looked at), ``of`` (how many there are,
            where that is more), ``copies`` (groups of pictures that show the
            same, each with ``path``, ``label`` and ``split``), ``leaked`` (test images that have a copy in train or
            val), ``conflicts``, ``labels``, ``outliers`` and ``odd`` (how many are in doubt), ``cues`` (see
            ``cues.Cue``), ``suspects`` (those that the page shows).
        suspects: what a person should look at.
        links: that pictures which are copies show the same object.
    """

    figures: Mapping[str, Any]
    suspects: list[Suspect]
    links: list[Correction]


def audit(
    data: Path,
    records: Sequence[Record],
    classes: list[str],
    features: Path,
    given: Sequence[Correction],
    seed: int,
    contradictory: Sequence[Record],
) -> Findings:
    """Look at all images, or at ``MOST`` of them, and at what the network has made of them.

    Args:
        data: the folder of the images.
        records: the manifest.
        classes: the class names.
        features: the file of all images' features.
        given: the corrections: what a person has judged is no suspect any more.
        seed: of the folds.
        contradictory: images that are left out because they show the same and are labelled differently.
    """
    total, rows = len(records), _looked_at(records)
    records = [records[row] for row in rows]
    known, y = _features(features, rows, seed), examples.labels(records, classes)
    looks = cluster.everywhere(pictures.look, [data / one.path for one in records], "audit: pictures", data)
    near = neighbours.nearest(known)
    named = {one.path for one in given if one.action not in corrections.PAIR}
    contents = {one.sha256 for one in records if one.path in named}
    judged = {one.path for one in records if one.sha256 in contents}
    decided = {*given}
    pairs = {
        pair: alike
        for pair, alike in copies.find(near, [one.grey for one in looks]).items()
        if _said(records, pair, "different") not in decided
    }
    links = sorted(_said(records, pair, "same") for pair in pairs)
    grouped = corrections.group(records, [*given, *links])
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(one.unit, len(numbers)) for one in grouped])
    folds = crossvalidation.deal(grouped, seed)
    doubtful = labels.find(known, near, y, groups, folds, len(classes))

    def beside(row: int, rows: Sequence[int], note: str = "") -> tuple[Neighbour, ...]:
        """The pictures of ``rows`` that are not the one of ``row``."""
        others = [records[other] for other in rows if other != row][:BESIDE]
        return tuple(Neighbour(other.path, other.label, other.split, note) for other in others)

    def suspect(kind: Any, row: int, why: str, rows: Sequence[int], suggestion: str = "", note: str = "") -> Suspect:
        one = records[row]
        return Suspect(kind, one.path, one.label, one.split, why, suggestion, beside(row, rows, note))

    found = _conflicts(contradictory, given)
    conflicts = len(found)
    joined = {one.path: number for number, same in enumerate(corrections.together(records, given)) for one in same}
    for (one, other), alike in sorted(pairs.items(), key=lambda item: (-item[1], item[0])):
        why = _copied(records[one], records[other], joined, judged)
        if why:
            found.append(suspect("copy", one, why, [other], note=f"{alike:.0%} alike"))
    for row in doubtful.rows.tolist():
        best = int(doubtful.probabilities[row].argmax())
        if best != y[row] and records[row].path not in judged:
            said = f"Models that have not seen it are {doubtful.probabilities[row, best]:.0%} sure of {classes[best]}, "
            of_best = [other for other in near.rows[row].tolist() if y[other] == best]
            why = f"{said}and {doubtful.probabilities[row, y[row]]:.0%} of {records[row].label}."
            found.append(suspect("label", row, why, of_best, classes[best]))
    suspects = len([one for one in found if one.kind == "label"])
    odd = {row: why for row, why in pictures.odd(looks).items() if records[row].path not in judged}
    found += [suspect("odd", row, why, []) for row, why in odd.items()]
    alone = [row for row in _outliers(near, groups) if records[row].path not in judged and row not in odd]
    why = "It resembles no other picture as much as the others resemble each other."
    found += [suspect("outlier", row, why, near.rows[row].tolist()) for row in alone]
    same = [sorted(group, key=lambda one: one.path) for group in corrections.together(records, [*given, *links])]
    figures = {
        "images": len(records),
        **({"of": total} if total > len(records) else {}),
        "copies": [[{"path": one.path, "label": one.label, "split": one.split} for one in group] for group in same],
        "leaked": sorted(
            one.path for group in same if len({one.split for one in group}) > 1 for one in group if one.split == "test"
        ),
        "conflicts": conflicts,
        "labels": suspects,
        "outliers": len(alone),
        "odd": len(odd),
        "cues": [asdict(cue) | {"label": classes[cue.label]} for cue in cues.find(looks, y, folds, len(classes))],
        "suspects": [asdict(one) for one in review.shown(found)],
    }
    return Findings(figures, found, links)


def _conflicts(contradictory: Sequence[Record], given: Sequence[Correction]) -> list[Suspect]:
    """Ask which label is right, once for all files that show the same; the first other one is suggested."""
    found = []
    for same in corrections.together(contradictory, given):
        one, *others = sorted(same, key=lambda record: record.path)
        what = "Identical files" if len({record.sha256 for record in same}) == 1 else "Pictures of the same object"
        *first, last = sorted({record.label for record in same})
        why = f"{what} are labelled {', '.join(first)} and {last}: none of them is used until you say what is right."
        suggestion = next(record.label for record in others if record.label != one.label)
        beside = tuple(Neighbour(record.path, record.label, None) for record in others)
        found.append(Suspect("conflict", one.path, one.label, None, why, suggestion, beside))
    return sorted(found, key=lambda suspect: suspect.path)


def _copied(one: Record, other: Record, joined: dict[str, int], judged: set[str]) -> str:
    """Say what is wrong with two pictures being copies; nothing where it has been put right, or need not be.

    That both show the same object, as ``joined`` may say, puts them into one split, and makes no label right.
    """
    if one.label != other.label:
        if {one.path, other.path} <= judged:
            return ""
        return f"The same picture is labelled {one.label} here and {other.label} there: at least one is wrong."
    if one.split != other.split and (one.path not in joined or joined[one.path] != joined.get(other.path)):
        return f"The same picture is in {one.split} here and in {other.split} there."
    return ""


def _said(records: Sequence[Record], pair: copies.Pair, action: Action) -> Correction:
    """What can be said of two images, which are given by their rows."""
    one, other = (records[row].path for row in pair)
    return corrections.pair(one, action, other)


def _looked_at(records: Sequence[Record]) -> Labels:
    """The images that are looked at: all, or those whose content has the lowest hashes, which no other image moves."""
    lowest = sorted(range(len(records)), key=lambda row: records[row].sha256)[:MOST]
    return np.array(sorted(lowest), np.int64)


def _features(file: Path, rows: Labels, seed: int) -> Floats:
    """The features of some images (images × features), each row of length 1."""
    source = Saved(file)  # of which no more stays in memory than is asked for
    width = math.prod(source.shape)
    mixing = None
    if width > WIDEST:
        mixing = np.random.default_rng(seed).normal(size=(width, WIDEST)).astype(np.float32)
    parts = []
    for at in range(0, len(rows), AT_ONCE):
        some = source.take(rows[at : at + AT_ONCE], 0).reshape(-1, width)
        parts.append(some if mixing is None else some @ mixing)
    features = np.concatenate(parts)
    found: Floats = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return found.astype(np.float32, copy=False)


def _outliers(near: Neighbours, groups: Labels) -> list[int]:
    """The pictures that resemble none but their own copies, the strangest first."""
    others = groups[near.rows] != groups[:, np.newaxis]
    asked = others & (others.cumsum(axis=1) <= NEAR)
    alike = (near.similarity * asked).sum(axis=1) / np.maximum(asked.sum(axis=1), 1)
    middle = np.median(alike)
    spread = 1.4826 * np.median(np.abs(alike - middle))
    strange = np.argsort(alike, kind="stable")
    return [int(row) for row in strange if asked[row].any() and 0 < spread < (middle - alike[row]) / UNLIKE]


def described(figures: Mapping[str, Any]) -> list[str]:
    """Say what was found in a few lines."""
    across = sum(len({one["split"] for one in group}) > 1 for group in figures["copies"])
    counts = (
        *([_some(figures["conflicts"], "picture", "in two classes")] if figures["conflicts"] else []),
        _some(len(figures["copies"]), "group", f"of copies, {across} across splits"),
        _some(figures["labels"], "label", "in doubt"),
        _some(figures["odd"], "picture", "odd by itself"),
        _some(figures["outliers"], "picture", "unlike all others"),
    )
    some = f"of {figures['images']:,} pictures, drawn from {figures['of']:,}: " if "of" in figures else ""
    lines = [f"audit: {some}{'; '.join(counts)}"]
    lines += [
        f"  {cue['feature']} alone is right for {cue['right']:.0%} (the most frequent class: {cue['majority']:.0%}), "
        f"first of all for {cue['label']}: see that the network does not learn it"
        for cue in figures["cues"]
    ]
    asked = figures["conflicts"] or figures["copies"] or figures["labels"] or figures["odd"] or figures["outliers"]
    return [*lines, *(["  look at them, and decide: artifacts/audit/review.html"] if asked else [])]


def _some(count: int, what: str, more: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'} {more}"
