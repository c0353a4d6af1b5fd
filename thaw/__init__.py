"""Reproducible transfer learning: cached bottleneck features, split fine-tuning, honest comparison."""

import atexit
import gc
import os

from thaw.chatter import end_with_readers, in_utf8, silence
from thaw.machine import cores

# Keras reads its backend, and TensorFlow how much it talks and how many threads it starts, when they are first
# imported; all of that happens after this.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(cores()))
# TensorFlow makes a million objects that stay: to walk them for cycles all the while, and at the end, takes seconds.
gc.set_threshold(20_000)
atexit.register(gc.freeze)
silence()
end_with_readers()
if os.name == "nt":
    in_utf8()
