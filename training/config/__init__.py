"""The options of `vae-train fit`: what they are, their presets, on the command line and in a file."""
