"""Hugging Face diffusers' remote VAE: what `remote_decode` and `remote_encode` of diffusers.utils.remote_utils send.

SD.Next and ComfyUI-HFRemoteVae send it too. A diffusion model's latents are normalised; `do_scaling` does that as the
model's configuration says, and with `scaling_factor` or `shift_factor` they are (z − shift_factor)·scaling_factor.
Unknown parameters are ignored: they are for other endpoints' models.

A model whose latents are vectors, (N, D), is served too. Its grey images become RGB where diffusers makes pictures of
them itself.
"""
