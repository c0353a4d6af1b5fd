"""The textbook recipe, as tutorials and books teach it, to be measured against: Keras alone, the whole model each time.

Ten epochs of a new head with on-the-fly augmentation through the frozen base; then unfreeze, freeze all but the last
layers again, recompile at 1e-5, ten more epochs (after https://keras.io/guides/transfer_learning and TensorFlow's
"Transfer learning and fine-tuning"). The data are three folders, train, val and test, with a folder for each class.

    python -m benchmarks.textbook DATA --weights imagenet|FILE [--batchnorm written|frozen] [--out FILE]
"""

import argparse
import json
from pathlib import Path
from typing import Any

SIZE = 160
BATCH = 32
LAYERS = 20  # of the base, to fine-tune


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.textbook", description="The textbook recipe.")
    parser.add_argument("data", type=Path, help="a folder with train/, val/ and test/")
    parser.add_argument("--weights", required=True, help="MobileNetV2 1.0 without its top: imagenet, or a file")
    parser.add_argument("--epochs", type=int, default=10, help="of each phase")
    parser.add_argument(
        "--batchnorm",
        choices=["written", "frozen"],
        default="written",
        help="written: as the recipe is written (training=False, which Keras overrides in fit); frozen: kept frozen",
    )
    parser.add_argument("--out", type=Path, help="write the test accuracies here as JSON")
    given = parser.parse_args()
    text = json.dumps(recipe(given.data, given.weights, given.epochs, given.batchnorm == "frozen"))
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8", newline="\n")


def recipe(data: Path, weights: str, epochs: int, frozen_batchnorm: bool) -> dict[str, float]:
    """Run it; return the test accuracies after both phases."""
    import keras

    keras.utils.set_random_seed(0)
    train, val, test = (images(data, split) for split in ("train", "val", "test"))
    model, base = classifier(weights, classes=len(train.class_names))
    train, val, test = (split.prefetch(-1) for split in (train, val, test))
    compiled(model, 1e-3).fit(train, validation_data=val, epochs=epochs, verbose=2)
    head = float(model.evaluate(test, verbose=0)[1])
    unfreeze(base, frozen_batchnorm)
    compiled(model, 1e-5).fit(train, validation_data=val, epochs=epochs, verbose=2)
    return {"head": head, "finetuned": float(model.evaluate(test, verbose=0)[1])}


def images(data: Path, split: str) -> Any:
    """The images of one split, decoded anew in each epoch."""
    import keras

    return keras.utils.image_dataset_from_directory(
        data / split, image_size=(SIZE, SIZE), batch_size=BATCH, shuffle=split == "train", seed=0
    )


def classifier(weights: str, classes: int) -> tuple[Any, Any]:
    """The whole model with a new head, and its base, which is frozen."""
    import keras

    augmentation = keras.Sequential([keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)])
    base = keras.applications.MobileNetV2(
        input_shape=(SIZE, SIZE, 3), include_top=False, weights="imagenet" if weights == "imagenet" else None
    )
    if weights != "imagenet":
        base.load_weights(weights)
    base.trainable = False
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.applications.mobilenet_v2.preprocess_input(augmentation(image))
    x = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
    return keras.Model(image, keras.layers.Dense(classes)(keras.layers.Dropout(0.2)(x))), base


def compiled(model: Any, rate: float) -> Any:
    """Compile it with Adam."""
    import keras

    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def unfreeze(base: Any, frozen_batchnorm: bool) -> None:
    """Make the last layers of the base trainable."""
    import keras

    base.trainable = True
    for layer in base.layers[:-LAYERS]:
        layer.trainable = False
    for layer in base.layers:
        if frozen_batchnorm and isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


if __name__ == "__main__":
    main()
