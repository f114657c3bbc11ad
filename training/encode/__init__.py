"""`vae-train encode`: latents of files, folders and tables of any size."""
