"""No progress bars and no advice from the libraries: a worker's log, and the terminal, are for our own words."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Silence diffusers and transformers; to be called before anything imports their models."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (transformers_logging, diffusers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
