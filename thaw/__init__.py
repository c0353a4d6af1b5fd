"""Reproducible transfer learning: cached bottleneck features, split fine-tuning, honest comparison."""

import os

# Keras reads its backend, and TensorFlow how much it talks, when they are first imported; both happen after this.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
