"""Reproducible transfer learning: cached bottleneck features, split fine-tuning, honest comparison."""
