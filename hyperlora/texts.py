"""The texts of a batch as embeddings: prompt and negative prompt of a sample have one length."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hyperlora.prompts import PromptEmbedding, PromptEncoder
from hyperlora.sample import Sample


@dataclass(frozen=True)
class TextPair:
    """A sample's prompt and, with guidance, its negative prompt, in equally many chunks."""

    prompt: PromptEmbedding
    negative: PromptEmbedding | None


class SampleTexts:
    """Turns samples into embeddings with one model's encoder.

    Parameters
    ----------
    encoder
        The model's text encoders.
    zeros_for_empty
        SDXL was trained with zeros for "no text", and its folders say so: the empty negative prompt is not encoded.
    """

    def __init__(self, encoder: PromptEncoder, *, zeros_for_empty: bool) -> None:
        self._encoder = encoder
        self._zeros_for_empty = zeros_for_empty

    def chunks(self, sample: Sample, prompt: str) -> int:
        """How many chunks of 77 tokens the longer of both texts takes; `PromptSyntax` for what cannot be read."""
        chunks = self._encoder.chunks(prompt, weighted=sample.weighted)
        if not self._reads_negative(sample):
            return chunks
        return max(chunks, self._encoder.chunks(sample.negative_prompt, weighted=sample.weighted))

    def embed(self, sample: Sample, prompt: str) -> TextPair:
        """The sample's texts, with `prompt` in place of its own; the shorter one is filled up with empty text."""
        positive = self._encoder.encode(prompt, weighted=sample.weighted)
        if not sample.guided:
            return TextPair(positive, None)
        if not self._reads_negative(sample):
            return TextPair(positive, positive.zeros())
        negative = self._encoder.encode(sample.negative_prompt, weighted=sample.weighted)
        if positive.chunks == negative.chunks:
            return TextPair(positive, negative)
        chunks, empty = max(positive.chunks, negative.chunks), self._encoder.encode("")
        return TextPair(positive.padded(chunks, empty), negative.padded(chunks, empty))

    def _reads_negative(self, sample: Sample) -> bool:
        return sample.guided and (bool(sample.negative_prompt) or not self._zeros_for_empty)


def with_region_words(sample: Sample, words: str) -> Sample:
    """The sample with a region's words after its own, behind a comma."""
    return replace(sample, prompt=f"{sample.prompt}, {words}" if sample.prompt.strip() else words)
