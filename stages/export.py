"""Write the finished model in other formats, and prove that each gives the same answers.

Reads what ``dvc repro`` has left; writes artifacts/export/: a file or folder for each format, and report.md with sizes
and latencies. Every format is read again by its own runtime and compared with the finished model on up to 100 test
images: the same class on all of them, and probabilities to 1e-4.

    python -m stages.export keras savedmodel tflite onnx openvino
"""

import argparse
from collections.abc import Sequence

import numpy as np

from thaw import parallel
from thaw.artifacts import Paths, atomic, write_text
from thaw.data import images, manifest
from thaw.errors import UserError, fail
from thaw.models import exporting
from thaw.models.exporting import FORMATS, compare, latency, megabytes
from thaw.models.portable import Model

IMAGES = 100
HUB_FIRST = "Whoever loads `model.keras` has to `import keras_hub` first."


def main(arguments: Sequence[str] | None = None) -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.export", description="The finished model elsewhere.")
    parser.add_argument("formats", nargs="+", choices=FORMATS)
    given = parser.parse_args(arguments)
    try:
        run(Paths(), list(dict.fromkeys(given.formats)))
    except UserError as error:
        fail(error)


def run(paths: Paths, formats: list[str]) -> None:
    """Write, read again, compare, measure.

    Raises:
        UserError: there is no finished model, a package is missing, or a format gives other answers; what is wrong is
            not left there.
    """
    for name in formats:
        exporting.require(FORMATS[name])
    reference = Model(paths.finished)
    test = [record for record in manifest.read(paths.manifest) if record.split == "test"][:IMAGES]
    size, fit = reference.facts.input_size, reference.facts.fit
    pictures = np.stack(list(parallel.ahead(lambda record: images.load(paths.data / record.path, size, fit), test)))
    expected = reference.probabilities(pictures, len(pictures))
    model = exporting.classifier(paths)
    rows = []
    for name in formats:
        file = paths.root / "export" / FORMATS[name].name
        with atomic(file) as partial:
            runner = exporting.written(name, model, partial)
            worst = compare(name, runner(pictures), expected)
            size_and_speed = f"{megabytes(partial):.1f} | {latency(runner, pictures):.1f}"
            del runner  # Windows renames no folder of which something is open
        rows.append(f"| {name} | `{file.name}` | {size_and_speed} | {worst:.0e} |")
        print(f"export: {file}, the same classes on {len(pictures)} test images, probabilities to {worst:.0e}")
    text = [
        f"The finished model in other formats. On {len(pictures)} test images each names the same classes.",
        "",
        "| format | file | MB | ms for an image | largest difference of a probability |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"Input: images × {size} × {size} × 3, uint8 RGB, {'the middle' if fit == 'crop' else 'all'} of each picture. "
        f"Output: images × {len(reference.facts.classes)} calibrated probabilities: "
        f"{', '.join(reference.facts.classes)}.",
        *([HUB_FIRST] if "keras" in formats and exporting.of_keras_hub(paths) else []),
        *([f"Below {sure:.1%}, the highest of them is unsure."] if (sure := reference.facts.threshold) else []),
        "",
    ]
    write_text(paths.root / "export" / "report.md", "\n".join(text))


if __name__ == "__main__":
    main()
