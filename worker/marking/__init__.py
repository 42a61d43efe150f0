"""Marking: every picture says that it is AI-made, in words that machines read, and by a signature.

`marker` is what the worker draws with; `credentials` (or `self_made` ones) and `signer` sign (C2PA), `provenance` reads
it back, `watermark` hides a sign in the pixels. IPTC's word in XMP is written by `worker.picture_file` into every
picture, signed or not.
"""
