"""Any opened picture file as upright, opaque, 8 bit sRGB.

Transparent pictures are laid on the grey #7f7f7f, the colour that CLIP is shown wherever there is nothing to see: a
cut-out portrait then looks to the network like its own masked pictures, and neither black nor white hair melts into it.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps

from hyperlora.errors import BadPhoto
from hyperlora.faces.findings import Finding

GREY_RGB = (127, 127, 127)
SMALLEST_SIDE = 32


@dataclass(frozen=True)
class Photo:
    """An upright RGB picture and what had to be assumed about its file."""

    image: Image.Image
    notes: tuple[Finding, ...]


def upright_rgb(image: Image.Image) -> Photo:
    """Turn by the EXIF orientation, convert to sRGB by the embedded profile, flatten transparency, cut to 8 bits.

    Raises
    ------
    BadPhoto
        The file is torn, has no colours that can be read, or is smaller than 32 pixels on a side.
    """
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as fault:
        raise BadPhoto(f"the picture file is torn or cannot be decoded: {fault}") from fault
    notes: list[Finding] = []
    turned = _turned(image, notes)
    if min(turned.size) < SMALLEST_SIDE:
        raise BadPhoto(f"the picture is {turned.width} x {turned.height} pixels; a face needs at least {SMALLEST_SIDE}")
    try:
        rgb = _opaque_rgb(_eight_bits(turned), turned.info.get("icc_profile"), notes)
    except ValueError as fault:
        raise BadPhoto(f"the picture's colours (mode {turned.mode}) cannot be read: {fault}") from fault
    return Photo(rgb, tuple(notes))


def _turned(image: Image.Image, notes: list[Finding]) -> Image.Image:
    """As the EXIF orientation says; EXIF data may be any bytes, so it may say nothing."""
    try:
        return ImageOps.exif_transpose(image)
    # A warning of Pillow's is an exception where its user made warnings errors.
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, OverflowError, struct.error, UserWarning):
        notes.append(Finding("damaged_exif", "its EXIF data is damaged; the photo is taken as it is stored"))
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """16 bit and floating point pictures as 8 bit grey; all others as they are."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values_HW = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values_HW).all():
        raise BadPhoto("the picture holds values that are not finite numbers")
    # Floating point files hold 0 to 1 or 0 to 255; integer ones beyond 8 bits hold 0 to 65535.
    brightest = float(values_HW.max())
    if image.mode == "F":
        full = 1.0 if brightest <= 1.0 else 255.0
    else:
        full = 255.0 if image.mode == "I" and brightest <= 255 else 65535.0
    grey_HW = np.clip(np.rint(values_HW * (255.0 / full)), 0, 255).astype(np.uint8)
    return Image.fromarray(grey_HW)


def _opaque_rgb(image: Image.Image, profile: object, notes: list[Finding]) -> Image.Image:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    if image.mode == "La":
        image = image.convert("LA")
    see_through = image.mode in ("RGBA", "LA", "La", "RGBa") or "transparency" in image.info
    if see_through:
        image = image.convert("RGBA")
        opaque = Image.new("RGB", image.size, GREY_RGB)
        opaque.paste(image.convert("RGB"), mask=image.getchannel("A"))
        image = opaque
    if isinstance(profile, bytes) and profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            notes.append(Finding("colours_assumed", "its colour profile cannot be read; colours are taken as sRGB"))
        else:
            if converted is not None:
                return converted
    return image.convert("RGB")
