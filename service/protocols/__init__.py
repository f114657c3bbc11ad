"""What other services' clients speak: each a thin file over the one engine."""
