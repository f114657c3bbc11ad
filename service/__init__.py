"""A VAE behind HTTP: an image or a vector in, a vector or an image out."""
