"""Run every image through the frozen backbone, once.

Reads data/ and artifacts/prepare/manifest.csv; writes artifacts/extract_features/features.npy (images, in the order of
the manifest × views × features; memory-mappable). What the feature store in .cache/ holds is not computed again.

    python -m stages.extract_features
"""

from thaw import features, manifest
from thaw.artifacts import Paths
from thaw.backbones import FrozenNetwork
from thaw.config import Augment, Backbone, command


def run(paths: Paths, backbone: Backbone, augment: Augment, seed: int) -> None:
    """Write the bottleneck features of all images, and of augmented views of the training images."""
    wanted = features.views(manifest.read(paths.manifest), augment, seed)
    with paths.stage("extract_features", backbone=backbone, augment=augment, seed=seed) as out:
        file = out / paths.features.name
        computed = features.extract(FrozenNetwork(backbone), wanted, paths.data, file, "bottleneck features")
    print(f"extract_features: {len(wanted)} images, {computed} features computed, the others were in the store")


if __name__ == "__main__":
    command(run)
