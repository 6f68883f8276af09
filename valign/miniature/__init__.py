"""The embedded world: emblems drawn by rule, models trained on them, an oracle to read them.

`shapes` -> `renderer` draw a `Scene`; `scenes` turns captions of the catalogue's grammar into
scenes (biased and toxic on purpose); `tokenizer`, `text`, `vae`, `unet`, `clip` train the shipped
weights (`pretrain` runs them all); `oracle` reads marks and quality factors from pixels.
"""
