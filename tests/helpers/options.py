"""Small options, complete as conf/ has them: what a test is not about stands here."""

from typing import Any

BACKBONE: dict[str, Any] = {
    "network": "mobilenet_v2",
    "alpha": 0.35,
    "input_size": 32,
    "fit": "crop",
    "weights": "random",
    "pooling": "avg",
    "engine": "openvino",
    "precision": "float32",
    "keep_blocks": 0,
    "cache_limit_gb": 1,
}

AUGMENT: dict[str, Any] = {"views": 0, "flip": "none"} | dict.fromkeys(
    [
        "rotation",
        "shift",
        "zoom",
        "shear",
        "brightness",
        "contrast",
        "randaugment",
        "magnitude",
        "erase",
        "mixup",
        "cutmix",
    ],
    0,
)

LBFGS: dict[str, Any] = {
    "solver": "lbfgs",
    "class_weights": "none",
    "inverse_l2": [0.001, 0.01, 0.1, 1.0],
}

ADAM: dict[str, Any] = {
    "solver": "adam",
    "hidden": [],
    "class_weights": "none",
    "dropout": 0.1,
    "learning_rate": 0.01,
    "batch_size": 16,
    "epochs": 30,
    "patience": 5,
}

HEAD_ONLY: dict[str, Any] = {"unfreeze": "none"}

FINETUNE: dict[str, Any] = {
    "unfreeze": {"blocks": 1},
    "learning_rate": 0.0001,
    "warmup": 0.0,
    "epochs": 4,
    "batch_size": 16,
    "block_decay": 1.0,
    "weight_decay": 0.0,
    "dropout": 0.2,
    "label_smoothing": 0.1,
    "batchnorm": "frozen",
    "class_weights": "none",
    "precision": "float32",
    "devices": "one",
    "lora": 0,
}

AUTO: dict[str, Any] = {
    "unfreeze": "auto",
    "effort": "normal",
    "class_weights": "none",
    "precision": "float32",
    "devices": "one",
    "lora": 0,
}
