"""Align text-to-image diffusion models with human values and several quality metrics at once.

    catalogue -> generate -> score -> label -> encode -> train -> evaluate -> report
     prompts      images     scores   pairs    latents   weights    numbers     page

`stages` holds what each verb does, `on_ray` carries it to a cluster, `storage` keeps every byte,
`models` knows the networks, and `miniature` ships a small trained world in which all of it runs
on two CPU cores. Importing `valign` imports nothing else.
"""
