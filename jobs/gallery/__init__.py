"""Galleries: a job's pictures as static pages, people down and prompts across, beside the pictures themselves.

`build_due` is the clerk's errand, `build_now` somebody's wish; `sign` gives addresses that expire; `FolderGallery` is
for pictures that were fetched.
"""

from __future__ import annotations

from jobs.gallery.build import build_due, build_now
from jobs.gallery.data import Head
from jobs.gallery.folder import FolderGallery
from jobs.gallery.page import Links, render
from jobs.gallery.sign import Signed, StoredGallery, page_data, sign_stored, sign_to_folder

__all__ = [
    "FolderGallery",
    "Head",
    "Links",
    "Signed",
    "StoredGallery",
    "build_due",
    "build_now",
    "page_data",
    "render",
    "sign_stored",
    "sign_to_folder",
]
