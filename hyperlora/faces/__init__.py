"""Faces: find them, know them again, cut from a photo what the hypernetwork is shown."""

from hyperlora.faces.choice import FaceChoice
from hyperlora.faces.debug import debug_picture, refusal_picture
from hyperlora.faces.find import Search, find_faces, search_faces
from hyperlora.faces.findings import Finding
from hyperlora.faces.load import load_analyzer
from hyperlora.faces.measure import similarity
from hyperlora.faces.prepare import PhotoConditions, prepare_photo
from hyperlora.faces.types import Face, FaceAnalyzer, require_encoder, same_person_cosine

__all__ = [
    "Face",
    "FaceAnalyzer",
    "FaceChoice",
    "Finding",
    "PhotoConditions",
    "Search",
    "debug_picture",
    "find_faces",
    "load_analyzer",
    "prepare_photo",
    "refusal_picture",
    "require_encoder",
    "same_person_cosine",
    "search_faces",
    "similarity",
]
