"""A transformer in PyTorch, for ``benchmarks.encoders``: sees all images for each line that it reads, and then says so.

Imports nothing of thaw: it runs where torch and transformers are installed.

    python -m benchmarks.torch_encoder NETWORK COUNT PRECISION
"""

import sys
from typing import Any

BATCH = 32


def network(name: str) -> Any:
    """Build it with random weights, as ``transformers`` has it; its base sizes are those of the configurations."""
    import transformers as kinds

    if name.startswith("dinov2"):
        small = {"hidden_size": 384, "num_attention_heads": 6} if name == "dinov2_small" else {}
        return kinds.Dinov2Model(kinds.Dinov2Config(image_size=518, patch_size=14, **small))
    if name == "vit_base":
        return kinds.ViTModel(kinds.ViTConfig(), add_pooling_layer=False)
    return kinds.SiglipVisionModel(kinds.SiglipVisionConfig())


def main() -> None:
    """Be the command line."""
    import torch

    name, count, precision = sys.argv[1:]
    model = network(name).eval().to(getattr(torch, precision))
    images = torch.rand(int(count), 3, 224, 224).to(getattr(torch, precision))
    for _ in sys.stdin:
        with torch.inference_mode():
            for at in range(0, len(images), BATCH):
                model(pixel_values=images[at : at + BATCH])
        print("done", flush=True)


if __name__ == "__main__":
    main()
