"""Pictures as files → pixels as arrays: the one reader of the service, of training and of `vae-train encode`.

Imports NumPy and Pillow, never torch. How much of a picture is read, and of how large a one, is for the callers to limit.
"""
