"""Networks: generators, the value encoder, the aligned pipeline, reward models and classifiers.

The one room that imports diffusers, transformers and open_clip. It sees local folders and hub ids
only; whoever calls it has fetched the folder. It knows nothing of prompts' meanings, runs or
storage.
"""
