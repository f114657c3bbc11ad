"""Training, evaluation, plots, export and encoding of variational autoencoders."""
