"""The service: a variational autoencoder behind HTTP."""
