"""Pictures as files → pixels as arrays: the one reader of the service, of training and of `vae-train encode`.

Imports NumPy and Pillow, never torch. Callers limit how much they read, and of how large a picture.
"""
