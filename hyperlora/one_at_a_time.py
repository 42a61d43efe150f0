"""Loading models one at a time within a process.

accelerate's `init_empty_weights`, by which diffusers and transformers build a model before its weights are read,
replaces `torch.nn.Module.register_parameter` for every thread; a module that another thread makes meanwhile is left
without its weights. So everything here that builds a module from files holds `LOADING` while it does.
"""

from __future__ import annotations

import threading

LOADING = threading.RLock()
"""Held while a model is built; the same thread may take it again."""
