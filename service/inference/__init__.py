"""The model: checkpoints, the micro-batchers and the backends."""
