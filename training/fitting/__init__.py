"""`vae-train fit`: from a configuration to a checkpoint."""
