"""Run every image through the frozen backbone, once.

Reads data/, artifacts/prepare/manifest.csv and classes.json; writes artifacts/extract_features/: features.npy (images,
in the order of the manifest × views × features; memory-mappable), mixes.npy (which views are mixtures of two images),
meta.json (what the features take) and backbone.xml and .bin (the network, for OpenVINO: half of the model before
fine-tuning); of a network that reads and is given prompts, texts.npy (the class names, for zero-shot). What the feature
store in .cache/ holds is not computed again.

    python -m stages.extract_features
"""

import numpy as np

from thaw.artifacts import Paths, read_json, write_json
from thaw.config.composing import command
from thaw.config.schema import Augment, Backbone
from thaw.data import manifest
from thaw.networks import engine, features, texts, views
from thaw.networks.backbones import FrozenNetwork
from thaw.networks.outputs import Saved


def run(paths: Paths, backbone: Backbone, augment: Augment, seed: int) -> None:
    """Write the bottleneck features of all images, and of augmented views of the training images."""
    wanted = views.of(manifest.read(paths.manifest), augment, seed)
    with paths.stage("extract_features", backbone=backbone, augment=augment, seed=seed) as out:
        if backbone.asked:
            np.save(out / paths.texts.name, texts.classifier(backbone, read_json(paths.classes)))
        file = out / paths.features.name
        computed = features.extract(backbone, wanted, paths.data, file)
        stored = Saved(file)
        size = features.size(wanted, stored.shape, stored.itemsize)
        del stored  # Windows renames no folder of which something is mapped
        write_json(out / paths.stored("extract_features").name, size)
        views.mixes(wanted).save(out / paths.mixes.name)
        engine.copy(FrozenNetwork(backbone), out / paths.backbone.name)
    print(f"extract_features: {len(wanted)} images; {computed} went through the network, the store had the rest")


if __name__ == "__main__":
    command(run)
