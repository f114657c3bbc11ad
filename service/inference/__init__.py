"""The model: checkpoints, the micro-batcher and the backends that compute."""
