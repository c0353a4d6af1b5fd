"""Ask the data about themselves: identical files in different classes, copies across splits, doubtful labels, odd
pictures, spurious cues.

Reads data/, artifacts/prepare/ and the features. Writes artifacts/audit/: findings.json, which evaluate's report tells
of; review.html, on which a person decides about suspects, one by one; and copies.csv, the copies that were found, as
corrections: 'python -m stages.get_data correct artifacts/audit/copies.csv' brings them into one split.

It looks at the labels of all images, also of the test images, and decides nothing. A stage of its own, and no part of
evaluate, because it does not depend on the models: a sweep pays for it once. Needs no TensorFlow.

    python -m stages.audit
"""

from thaw.artifacts import Paths, read_json, write_json
from thaw.audit import findings, review
from thaw.config.composing import command
from thaw.data import corrections, manifest


def run(paths: Paths, seed: int) -> None:
    """Look at everything, write, and say what was found."""
    records, classes = manifest.read(paths.manifest), read_json(paths.classes)
    contradictory = manifest.read(paths.contradictory)
    given = corrections.of(paths.data)
    with paths.stage("audit", seed=seed) as out:
        found = findings.audit(paths.data, records, classes, paths.features, given, seed, contradictory)
        write_json(out / paths.findings.name, found.figures)
        review.write(out / "review.html", found.suspects, classes, paths.data, found.figures["images"])
        corrections.write(out / paths.copies.name, found.links)
    print("\n".join(findings.described(found.figures)))


if __name__ == "__main__":
    command(run)
