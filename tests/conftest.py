"""What every test runs under: two threads, no screen, no network. Nothing else belongs here."""

import os

os.environ["MPLBACKEND"] = "Agg"
# A model that is asked for by name must come from a package, never from a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import torch

# Small tensors: more threads than this only fight over the cores.
torch.set_num_threads(2)
