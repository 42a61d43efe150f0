"""The package's surface: what it exports, what importing it costs, its errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hyperlora
from hyperlora import errors


def test_importing_the_package_loads_no_torch() -> None:
    # Given a fresh interpreter, when the package is imported, then the heavy libraries stay outside
    heavy = ("torch", "diffusers", "transformers", "numpy", "PIL")
    code = f"import hyperlora, hyperlora.errors, sys; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_public_names() -> None:
    # The list is the promise: adding a name is a decision, losing one breaks somebody.
    assert hyperlora.__all__ == [
        "PRESETS",
        "ClipVision",
        "Control",
        "ControlNet",
        "DetailPass",
        "Drawing",
        "HyperLoRA",
        "HyperLoRAConfig",
        "HyperLoRAError",
        "LoRA",
        "LoRALayer",
        "PortraitPipeline",
        "Preset",
        "Region",
        "Sample",
        "WeightMerger",
        "concept_slider",
        "interpolate",
        "mix",
    ]
    for name in hyperlora.__all__:
        value = getattr(hyperlora, name)
        assert name == "PRESETS" or value.__module__.startswith("hyperlora.")
    assert set(hyperlora.__all__) <= set(dir(hyperlora))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'HyperLora'"):
        hyperlora.HyperLora  # noqa: B018


def test_every_error_has_its_own_code() -> None:
    # Given the whole tree below HyperLoRAError
    tree = [errors.HyperLoRAError]
    for parent in tree:
        tree.extend(parent.__subclasses__())
    tree = [kind for kind in tree if kind.__module__ == "hyperlora.errors"]
    # Then codes are unique snake_case words and the docstring is the default message
    codes = [kind.code for kind in tree]
    assert len(set(codes)) == len(codes) >= 13
    assert all(code.replace("_", "").isalpha() and code.islower() for code in codes)
    assert str(errors.NoFaceFound()) == "No face was found in the photo."
    assert not errors.NonFiniteWeights("x").retryable
