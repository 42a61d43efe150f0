"""Texts into embeddings: short, long and weighted, and the trigger words in front of them."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from compel import Compel, ReturnedEmbeddingsType
from diffusers import StableDiffusionXLPipeline

from hyperlora.errors import InvalidRequest, PromptSyntax
from hyperlora.prompts import CHUNK, PromptEmbedding, PromptEncoder, with_trigger_words
from hyperlora.weighted import MAX_DEPTH

# The tiny tokenizer has a token for every letter.
LONG = " ".join(f"word{number:03}" for number in range(30))  # 30 x 7 = 210 tokens: chunks of 75, 75 and 60
WEIGHTED = "a (tall man)1.3 with a red- tie"


@pytest.fixture
def encoder(sdxl: StableDiffusionXLPipeline) -> PromptEncoder:
    return PromptEncoder((sdxl.tokenizer, sdxl.tokenizer_2), (sdxl.text_encoder, sdxl.text_encoder_2))


@torch.inference_mode()
def frozen_encode(pipe: StableDiffusionXLPipeline, text: str) -> PromptEmbedding:
    """What the first version did for texts of up to 77 tokens, step by step."""
    outputs = []
    for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)):
        ids = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        outputs.append(encoder(ids, output_hidden_states=True))
    tokens_TC = torch.cat([output.hidden_states[-2][0] for output in outputs], dim=-1)
    return PromptEmbedding(tokens_TC, outputs[1].text_embeds[0])


def same(a: PromptEmbedding, b: PromptEmbedding) -> bool:
    return torch.equal(a.tokens_TC, b.tokens_TC) and torch.equal(a.pooled_P, b.pooled_P)


@pytest.mark.parametrize("length", [0, 1, 20, 74, 75])
def test_a_text_that_fits_is_embedded_bit_for_bit_as_ever(
    encoder: PromptEncoder, sdxl: StableDiffusionXLPipeline, length: int
) -> None:
    # Given a text of so many tokens beside its beginning and end
    text = ("portrait" * 10)[:length]
    # When it is embedded, then every bit is what the first version gave
    embedding = encoder.encode(text)
    assert same(embedding, frozen_encode(sdxl, text))
    assert embedding.chunks == encoder.chunks(text) == 1
    assert embedding.tokens_TC.shape == (77, 64)


def test_a_long_text_is_encoded_chunk_by_chunk_and_nothing_is_lost(
    encoder: PromptEncoder, sdxl: StableDiffusionXLPipeline
) -> None:
    # Given a text of 210 tokens, when it is embedded
    embedding = encoder.encode(LONG)
    # Then it is three chunks, each as the encoders see it on its own between beginning and end
    assert embedding.chunks == encoder.chunks(LONG) == 3
    assert embedding.tokens_TC.shape == (3 * 77, 64)
    ids = sdxl.tokenizer(LONG, add_special_tokens=False, verbose=False).input_ids
    for index in range(3):
        row = [188, *ids[75 * index : 75 * index + 75], 189]
        row += [189] * (77 - len(row))
        with torch.inference_mode():
            first = sdxl.text_encoder(torch.tensor([row]), output_hidden_states=True)
            second = sdxl.text_encoder_2(torch.tensor([row]), output_hidden_states=True)
        expected_TC = torch.cat([first.hidden_states[-2][0], second.hidden_states[-2][0]], dim=-1)
        assert torch.equal(embedding.tokens_TC[77 * index : 77 * index + 77], expected_TC)
        if index == 0:
            assert torch.equal(embedding.pooled_P, second.text_embeds[0])
    # And its last word matters
    assert not torch.equal(encoder.encode(LONG.replace("word029", "word028")).tokens_TC, embedding.tokens_TC)


def test_a_long_text_is_embedded_without_a_word_in_the_log(
    encoder: PromptEncoder, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    encoder.encode(LONG)
    assert caplog.records == [] and list(recwarn) == []


def test_padding_adds_empty_texts(encoder: PromptEncoder) -> None:
    # Given a short text and the empty one
    short, empty = encoder.encode("a man"), encoder.encode("")
    # When padded to three chunks
    padded = short.padded(3, empty)
    # Then the text comes first, then twice the empty text; the pooled vector stays
    assert padded.chunks == 3
    expected = torch.cat([short.tokens_TC, empty.tokens_TC, empty.tokens_TC])
    assert torch.equal(padded.tokens_TC, expected) and torch.equal(padded.pooled_P, short.pooled_P)
    assert short.padded(1, empty) is short
    assert padded.zeros().chunks == 3 and not padded.zeros().tokens_TC.any()
    # And a text never shrinks, nor is it padded with a long one
    with pytest.raises(InvalidRequest, match="3 chunks cannot be padded to 2"):
        padded.padded(2, empty)
    with pytest.raises(InvalidRequest, match="with one of 3 chunks"):
        short.padded(4, padded)


def compel_tokens(pipe: StableDiffusionXLPipeline, text: str) -> torch.Tensor:
    """What compel itself makes of a text for both encoders."""
    sides = [
        Compel(
            tokenizer,
            encoder,
            truncate_long_prompts=False,
            returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
        )(text)[0]
        for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
    ]
    return torch.cat(sides, dim=-1)


@pytest.mark.parametrize(
    ("text", "words", "chunks"),
    [
        (WEIGHTED, "a tall man with a red tie", 1),
        ("(a cat)++, (dog)0.4", "a cat , dog", 1),
        ("(a (blue)1.2 hat)1.5", "a blue hat", 1),
        ('("a fox", "an (owl)++").blend(0.7, 0.3)', None, 1),
        ('("a fox", "an owl").blend(1, -0.5, no_normalize)', None, 1),
        ('("a fox", "a snowy (wood)1.4").and()', "a fox", 2),
        ('("a fox", "a snowy wood").and(1, 0.5)', "a fox", 2),
    ],
)
def test_weighted_texts_are_what_compel_makes_of_them(
    encoder: PromptEncoder, sdxl: StableDiffusionXLPipeline, text: str, words: str | None, chunks: int
) -> None:
    # Given a text with weights, when it is embedded
    embedding = encoder.encode(text, weighted=True)
    # Then its tokens are compel's, number by number
    expected_TC = compel_tokens(sdxl, text)
    assert embedding.tokens_TC.shape == expected_TC.shape
    torch.testing.assert_close(embedding.tokens_TC, expected_TC, rtol=0, atol=1e-6)
    assert embedding.chunks == encoder.chunks(text, weighted=True) == chunks
    # And its pooled vector is that of the words without the syntax
    if words is not None:
        assert torch.equal(embedding.pooled_P, encoder.encode(words).pooled_P)
        assert not torch.allclose(embedding.tokens_TC[:77], encoder.encode(words).tokens_TC, atol=1e-3) or chunks > 1


def test_a_long_weighted_text_is_split_where_a_plain_one_is(encoder: PromptEncoder) -> None:
    # Given sentences that do not end where a chunk does (30 tokens each, and 75 to a chunk)
    text = f"{'x' * 29} . " * 4 + "fox"
    # When only the last word is weighted
    plain, weighted = encoder.encode(text), encoder.encode(f"{text}++", weighted=True)
    # Then the first chunk is the plain one's and the second differs in the three letters
    torch.testing.assert_close(weighted.tokens_TC[:CHUNK], plain.tokens_TC[:CHUNK], rtol=0, atol=1e-6)
    differs = (weighted.tokens_TC - plain.tokens_TC).abs().amax(dim=1) > 1e-3
    assert differs.nonzero().flatten().tolist() == [CHUNK + 1 + 120 - 75 + letter for letter in range(3)]


def test_chunks_are_counted_before_anything_is_encoded(encoder: PromptEncoder) -> None:
    texts = (f"({LONG})1.2", f'("{LONG}", "a fox").blend(1, 1)', f'("{LONG}", "a fox").and()', "(a)1.2" * 80, "")
    counted = [encoder.chunks(text, weighted=True) for text in texts]
    assert encoder.encoded == 0
    assert counted == [3, 3, 4, 2, 1] == [encoder.encode(text, weighted=True).chunks for text in texts]


def test_a_blend_pools_its_texts_by_their_shares(encoder: PromptEncoder) -> None:
    # Given two texts in the shares 3 : 1
    fox, owl = encoder.encode("a fox").pooled_P, encoder.encode("an owl").pooled_P
    # When blended, then so are their pooled vectors
    blended = encoder.encode('("a fox", "an owl").blend(3, 1)', weighted=True).pooled_P
    torch.testing.assert_close(blended, 0.75 * fox + 0.25 * owl)


@pytest.mark.parametrize("text", ["a man in a hat", "", "  ", "a wavy-haired man, 3.5 years", "()", LONG])
def test_a_weighted_text_without_weights_is_the_plain_text(encoder: PromptEncoder, text: str) -> None:
    plain = "" if text == "()" else text.strip()
    assert same(encoder.encode(text, weighted=True), encoder.encode(plain))


def test_brackets_mean_nothing_in_a_plain_text(encoder: PromptEncoder, sdxl: StableDiffusionXLPipeline) -> None:
    assert same(encoder.encode(WEIGHTED), frozen_encode(sdxl, WEIGHTED))
    assert not torch.equal(encoder.encode(WEIGHTED, weighted=True).tokens_TC, encoder.encode(WEIGHTED).tokens_TC)


def test_texts_are_remembered_apart_for_both_readings(encoder: PromptEncoder) -> None:
    # Given one text read in both ways
    plain, weighted = encoder.encode(WEIGHTED), encoder.encode(WEIGHTED, weighted=True)
    before = encoder.encoded
    # When asked for again, then nothing is encoded and each reading has its own answer
    assert encoder.encode(WEIGHTED) is plain and encoder.encode(WEIGHTED, weighted=True) is weighted
    assert encoder.encoded == before
    # And another encoder gives the same numbers, bit for bit
    other = PromptEncoder(encoder._tokenizers, encoder._text_encoders)
    assert same(other.encode(WEIGHTED, weighted=True), weighted)


def test_the_least_used_text_is_forgotten(sdxl: StableDiffusionXLPipeline) -> None:
    encoder = PromptEncoder((sdxl.tokenizer,) * 2, (sdxl.text_encoder, sdxl.text_encoder_2), capacity=2)
    for text in ("a", "b", "a", "c", "a"):
        encoder.encode(text)
    assert encoder.encoded == 3
    encoder.encode("b")
    assert encoder.encoded == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a (man", r"parentheses of a weighted prompt must be in pairs.*write \\\( and \\\)"),
        ("a man)", "parentheses of a weighted prompt must be in pairs"),
        (")a(", "parentheses of a weighted prompt must be in pairs"),
        ("(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1), "may have 8 parentheses in each other"),
        ("a cat.swap(dog)", r"cannot have \.swap\(\)"),
        ('("a cat.swap(dog)", "an owl").blend(1, 1)', "cannot be read"),
        ("withLora(pretty, 0.5) a man", "cannot name LoRAs"),
        ('("a fox", "an owl").blend(1, 1, 1)', "cannot be read.*mismatched"),
        ('("a fox", "an owl").blend(much)', "cannot be read"),
        ('("a fox", "an owl").blend(1, -1)', "must not add up to 0"),
        ('("a fox", "an owl").and() by the sea', "cannot be read"),
        ('("a fox", "an owl").blend(1, 1), by the sea', "cannot be read"),
        ('by the sea ("a fox", "an owl").blend(1, 1)', r"cannot be read at '\.blend\('"),
        ("(a fox).attend(much)", r"cannot be read at '\.attend\('"),
        ("a (red)1e308 hat", "wanted a weight from 0 to 10, .*found '1e308'"),
        ("a (red)nan hat", "wanted a weight from 0 to 10, .*found 'nan'"),
        ("a (red)-5 hat", "wanted a weight from 0 to 10, .*found '-5'"),
        ("a (red)10.5, hat", "wanted a weight from 0 to 10, .*found '10.5'"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(encoder: PromptEncoder, text: str, words: str) -> None:
    for ask in (encoder.encode, encoder.chunks):
        with pytest.raises(PromptSyntax, match=words):
            ask(text, weighted=True)
    # And as plain text it is only text
    assert encoder.encode(text).chunks == encoder.chunks(text) > 0


def test_weights_that_overflow_are_refused(encoder: PromptEncoder) -> None:
    with pytest.raises(PromptSyntax, match="so large that numbers overflow"):
        encoder.encode("(a fox)" + "+" * 3000, weighted=True)


def test_what_is_no_weight_is_left_alone(encoder: PromptEncoder) -> None:
    # Given parentheses followed by other things than numbers, and escaped ones
    for text in ("(cat)s, (dog)-like", r"smile \(2\)1e9", "a (hat)1.3.", "(one), 2 and 3"):
        # Then they are read
        assert encoder.chunks(text, weighted=True) == 1


def test_escaped_brackets_are_text(encoder: PromptEncoder) -> None:
    assert same(encoder.encode(r"a man \(old\)", weighted=True), encoder.encode("a man (old)"))


@pytest.mark.parametrize(
    "text", ["((( a ))) " * 100, "(" * MAX_DEPTH + "a " * 900 + ")" * MAX_DEPTH, '"a b" ' * 150, "a++ " * 300]
)
def test_a_nested_text_is_read_in_reasonable_time(encoder: PromptEncoder, text: str) -> None:
    # Without a memory the parser takes four times as long with every parenthesis: minutes for eight of them.
    # The processor's time: a busy machine is no fault of the parser.
    started = time.process_time()
    encoder.chunks(text, weighted=True)
    assert time.process_time() - started < 20


TRIGGER = "fcsks fxhks fhyks"


@pytest.mark.parametrize(
    ("prompt", "weighted", "expected"),
    [
        ("a man", False, f"{TRIGGER}, a man"),
        ("", False, TRIGGER),
        (f"a {TRIGGER.upper()} man", False, f"a {TRIGGER.upper()} man"),
        ('("a fox", "an owl").blend(1, 1)', False, f'{TRIGGER}, ("a fox", "an owl").blend(1, 1)'),
        ("a (man)1.2", True, f"{TRIGGER}, a (man)1.2"),
        ("(man)1.2", True, f"{TRIGGER}, (man)1.2"),
        ("", True, TRIGGER),
        (f"({TRIGGER})1.1, a man", True, f"({TRIGGER})1.1, a man"),
        ('("a fox", "an owl").blend(1, 1)', True, f'("{TRIGGER}, a fox", "{TRIGGER}, an owl").blend(1, 1)'),
        (' ("a, (fox)+" ,(an owl), cat ).and()', True,
         f' ("{TRIGGER}, a, (fox)+" ,({TRIGGER}, an owl), "{TRIGGER}, cat" ).and()'),
        (f'("{TRIGGER}, a fox", "an owl").blend()', True, f'("{TRIGGER}, a fox", "{TRIGGER}, an owl").blend()'),
        (r'("a \"fox, (red\"", "owl").blend(1, 1)', True,
         rf'("{TRIGGER}, a \"fox, (red\"", "{TRIGGER}, owl").blend(1, 1)'),
    ],
)  # fmt: skip
def test_trigger_words_go_in_front(prompt: str, weighted: bool, expected: str) -> None:
    assert with_trigger_words(prompt, f"{TRIGGER}, ", weighted=weighted) == expected
    assert with_trigger_words(expected, TRIGGER, weighted=weighted) == expected
    assert with_trigger_words(prompt, " , ", weighted=weighted) == prompt


def test_trigger_words_in_a_list_can_be_read(encoder: PromptEncoder) -> None:
    # Given a blend with trigger words in each part
    text = with_trigger_words('("a fox", owl, (a cat)).blend(1, 1, 2)', TRIGGER, weighted=True)
    # When it is embedded, then the pooled vector is the mix of the whole parts
    parts = [encoder.encode(f"{TRIGGER}, {part}").pooled_P for part in ("a fox", "owl", "a cat")]
    expected = 0.25 * parts[0] + 0.25 * parts[1] + 0.5 * parts[2]
    torch.testing.assert_close(encoder.encode(text, weighted=True).pooled_P, expected)


def test_encoders_whose_tokenizers_cut_differently_are_joined(sdxl: StableDiffusionXLPipeline) -> None:
    # Given a second tokenizer that sees every letter twice, so that it needs more chunks
    class Twice:
        bos_token_id, eos_token_id, pad_token_id = 188, 189, 189

        def __call__(self, text: str, **options: Any) -> Any:
            output = sdxl.tokenizer(text, **options)
            output["input_ids"] = [token for token in output.input_ids for _ in range(2)]
            return output

    encoder = PromptEncoder((sdxl.tokenizer, Twice()), (sdxl.text_encoder, sdxl.text_encoder_2))
    # When a text of 50 letters is embedded
    embedding = encoder.encode("x" * 50)
    # Then the first encoder's second chunk is the empty text
    assert embedding.chunks == encoder.chunks("x" * 50) == 2
    empty_TC = encoder.encode("").tokens_TC
    assert torch.equal(embedding.tokens_TC[CHUNK:, :32], empty_TC[:, :32])
    assert not torch.equal(embedding.tokens_TC[CHUNK:, 32:], empty_TC[:, 32:])


def test_reading_the_syntax_is_quiet_and_needs_no_network() -> None:
    # Given a process in which warnings are errors and nobody can be connected to
    code = (
        "import sys\n"
        "def forbid(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'): raise SystemExit(f'{event} {args}')\n"
        "sys.addaudithook(forbid)\n"
        "from hyperlora.weighted import parse\n"
        "print(parse('a (fox)1.5').pooled[0][0])"
    )
    # When a weighted text is read, then it says nothing but what was asked
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=200, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "a fox\n"


def test_what_is_forgotten_is_encoded_anew_and_a_thread_in_the_middle_is_not_disturbed(encoder: PromptEncoder) -> None:
    # Given a remembered text, and one that is being encoded when everything is forgotten
    first = encoder.encode("portrait of somebody")
    plain = encoder._plain

    def forgets(text: str) -> PromptEmbedding:
        encoder.forget()
        return plain(text)

    encoder._plain = forgets  # type: ignore[method-assign]
    second = encoder.encode("portrait of somebody else")
    encoder._plain = plain  # type: ignore[method-assign]

    # When both are asked for again, then nothing was remembered, and they come out the same
    before = encoder.encoded
    assert same(encoder.encode("portrait of somebody"), first)
    assert same(encoder.encode("portrait of somebody else"), second)
    assert encoder.encoded == before + 2
