"""Hugging Face diffusers' remote VAE: what `remote_decode` and `remote_encode` of diffusers.utils.remote_utils send.

SD.Next and ComfyUI-HFRemoteVae send it too. A diffusion model's latents are (z − shift_factor)·scaling_factor;
`do_scaling` takes both from the model's configuration, and either parameter overrides one. Unknown parameters are
ignored: they are for other endpoints' models.

A model whose latents are vectors, (N, D), is served too. Its grey images become RGB where diffusers makes pictures of
them itself.
"""
