"""Autoencoders of diffusion models, as Hugging Face diffusers saves them."""
