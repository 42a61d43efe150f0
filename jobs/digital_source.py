"""What a picture says of how it came to be: IPTC's digital source type in an XMP packet, for people and machines.

https://cv.iptc.org/newscodes/digitalsourcetype/ has the words; IPTC's photo metadata and C2PA use the same.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Literal
from xml.sax.saxutils import escape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
DigitalSource = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic"]
DRAWN: DigitalSource = "trainedAlgorithmicMedia"
"""Made by a trained model alone."""
REDRAWN: DigitalSource = "compositeWithTrainedAlgorithmicMedia"
"""A picture that was given, redrawn by a trained model in whole or in part."""
ASSEMBLED: DigitalSource = "compositeSynthetic"
"""Several pictures on one page, some of them made by a trained model: contact sheets, strips, thumbnails in sheets."""

PNG_KEYWORD = "XML:com.adobe.xmp"
_NAMESPACES = {"Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"}
_FOUND = re.compile(
    rb"Iptc4xmpExt:DigitalSourceType(?:>|\s*=\s*[\"'])\s*(http://cv\.iptc\.org/newscodes/digitalsourcetype/[A-Za-z]{1,60})"
)


def uri_of(source: DigitalSource) -> str:
    """The word as the URI that metadata hold."""
    return f"{VOCABULARY}{source}"


def xmp_packet(
    source: DigitalSource, own: Mapping[str, str] | None = None, namespaces: Mapping[str, str] = {}
) -> bytes:
    """An XMP packet with the digital source type, and with `own` properties (`prefix:name` to text), whose prefixes
    `namespaces` tells.
    """
    known = {**_NAMESPACES, **namespaces}
    properties = {"Iptc4xmpExt:DigitalSourceType": uri_of(source), **(own or {})}
    spaces = "".join(f' xmlns:{prefix}="{space}"' for prefix, space in known.items())
    told = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in properties.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about=""{spaces}>{told}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def png_info(packet: bytes) -> PngInfo:
    """The chunks of a PNG that hold an XMP packet."""
    info = PngInfo()
    info.add_itxt(PNG_KEYWORD, packet.decode())
    return info


def png_of(page: Image.Image, source: DigitalSource) -> bytes:
    """A page as the bytes of a PNG that tells its source, such as a contact sheet."""
    buffer = io.BytesIO()
    page.save(buffer, format="PNG", pnginfo=png_info(xmp_packet(source)))
    return buffer.getvalue()


def xmp_of(image: Image.Image) -> bytes:
    """The XMP packet of the picture that this was opened from; empty where there is none."""
    told = image.info.get("xmp") or image.info.get(PNG_KEYWORD) or b""
    return told if isinstance(told, bytes) else str(told).encode(errors="replace")


def source_of(image: Image.Image) -> str | None:
    """The digital source type that a picture tells, as IPTC's word; None where it tells none.

    By a pattern and no XML parser, since a file may be anybody's.
    """
    found = _FOUND.search(xmp_of(image))
    return found[1].decode().removeprefix(VOCABULARY) if found else None
