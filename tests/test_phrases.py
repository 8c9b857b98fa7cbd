"""Phrases of boxes: read by the host's own text encoders, at small widths, or refused with the reason."""

from types import SimpleNamespace

import pytest
import small
import torch
from gligen_pack.gligen_ops.errors import GligenError

WIDTH = 32
CLIP = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
T5 = {"d_model": WIDTH, "num_layers": 1, "num_heads": 2, "d_kv": 16, "d_ff": 64}
LONG = "star " * 76


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    generator = torch.Generator().manual_seed(1)
    for name, width in ("mine", WIDTH), ("other_base", 48):
        torch.save(
            {"emb_params": torch.randn(2, width, generator=generator)}, folder / f"{name}.pt"
        )
    return folder


@pytest.fixture(scope="module")
def clips(pack, embeddings):
    """What the host's loaders give for text encoders of these base models."""
    from comfy import sd, sd1_clip, sdxl_clip, supported_models_base
    from comfy.text_encoders import flux, pixart_t5, sd2_clip, sd3_clip

    kinds = {
        "sd1": (sd1_clip.SD1Tokenizer, sd1_clip.SD1ClipModel),
        "sd2": (sd2_clip.SD2Tokenizer, sd2_clip.SD2ClipModel),
        "sdxl": (sdxl_clip.SDXLTokenizer, sdxl_clip.SDXLClipModel),
        "flux": (flux.FluxTokenizer, flux.FluxClipModel),
        "sd3": (sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip(t5=False)),
        "sd3, t5 alone": (sd3_clip.SD3Tokenizer, sd3_clip.sd3_clip(clip_l=False, clip_g=False)),
        "t5": (pixart_t5.PixArtTokenizer, pixart_t5.PixArtT5XXL),
    }
    names = {"clip_l": CLIP, "clip_h": CLIP, "clip_g": {**CLIP, "hidden_size": 48}, "t5xxl": T5}
    options = {f"{name}_model_config": config for name, config in names.items()}
    made = {}

    def clip(kind: str):
        if kind not in made:
            target = supported_models_base.ClipTarget(*kinds[kind])
            made[kind] = sd.CLIP(target, str(embeddings), model_options=options)
            small.randomise(made[kind].cond_stage_model, seed=2)
        return made[kind]

    return clip


@pytest.fixture(scope="module")
def features(pack):
    from gligen_pack.nodes.encoders.phrases import phrase_features

    return phrase_features


@pytest.mark.parametrize("kind", ["sd1", "sd2", "flux"])
def test_a_phrase_is_read_by_the_clip_among_the_text_encoders(clips, features, kind):
    clip = clips(kind)
    read = features(clip, ["a star", "a ring", "a star"], WIDTH)
    assert list(read) == ["a star", "a ring"]
    pooled = clip.encode_from_tokens(clip.tokenize("a star"), return_pooled="unprojected")[1]
    assert torch.equal(read["a star"], pooled[0]) and not torch.equal(read["a ring"], pooled[0])


@pytest.mark.parametrize(
    "kind, width, came, told",
    [
        ("t5", 768, "PixArtT5XXL", "SD 1.x checkpoint, or clip_l.safetensors"),
        ("t5", 1024, "PixArtT5XXL", "SD 2.x checkpoint"),
        ("sd3, t5 alone", 2048, "SD3ClipModel", "CLIP-L and CLIP-G of SDXL"),
        ("sdxl", 768, r"SDXLClipModel\) are 48 wide", "trained with 768.*SD 1.x checkpoint"),
        ("sdxl", 2048, r"SDXLClipModel\) are 48 wide", "trained with 2048.*CLIP-L and CLIP-G"),
        ("sd3", 1024, r"SD3ClipModel\) are 80 wide", "trained with 1024.*SD 2.x checkpoint"),
        ("flux", 77, r"FluxClipModel\) are 32 wide", "the base model that the GLIGEN file"),
    ],
)
def test_another_text_encoder_is_told_with_the_one_to_connect(
    clips, features, kind, width, came, told
):
    with pytest.raises(GligenError, match=rf"^clip: .*{came}.*{told}"):
        features(clips(kind), ["a star"], width)


def test_a_clip_of_another_pack_that_pools_nothing_is_told(features):
    bare = SimpleNamespace(
        tokenize=lambda text: {"qwen": [[(1, 1.0)]]},
        encode_from_tokens=lambda tokens, return_pooled: torch.zeros(1, 77, 768),
    )
    with pytest.raises(GligenError, match="clip: came a text encoder .* without a CLIP"):
        features(bare, ["a star"], 768)


@pytest.fixture(scope="module")
def nodes(pack):
    """Each node that reads phrases, as a function of its CLIP and a phrase."""
    from files import random_tensors
    from gligen_pack.gligen_ops.model import Block
    from gligen_pack.nodes.image_box import GligenImageBox
    from gligen_pack.nodes.text_box import GligenTextBox
    from gligen_pack.nodes.text_boxes import GligenTextBoxes

    widths = {Block("middle", 0, 0): 32}
    text = small.gligen(small.gligen_tensors(widths, text_width=WIDTH))
    both = small.gligen(random_tensors("text and image box", widths, 768, WIDTH))
    start, half = small.conditioning(1), (0.0, 0.0, 0.5, 0.5)
    picture = {"image_embeds": torch.ones(1, WIDTH)}

    def image_box(clip, phrase, use="text and image"):
        return GligenImageBox.execute(
            start, both, picture, clip, phrase, *half, use, "of the CLIP", 1.0
        )

    return {
        "GLIGEN Text Box": lambda clip, phrase: GligenTextBox.execute(
            start, text, clip, phrase, *half
        ),
        "GLIGEN Text Boxes": lambda clip, phrase: GligenTextBoxes.execute(
            start, text, clip, f"{phrase}: 0, 0, 0.5, 0.5", 512, 512
        ),
        "GLIGEN Text Boxes, linked": lambda clip, phrase: GligenTextBoxes.execute(
            start, text, clip, "", 8, 8, {"x": 0, "y": 0, "width": 4, "height": 4, "label": phrase}
        ),
        "GLIGEN Image Box": image_box,
        "GLIGEN Image Box, without text": lambda clip, phrase: image_box(clip, "", "image"),
    }


@pytest.mark.parametrize("kind", [None, "t5"])
def test_every_node_with_a_clip_input_tells_one_that_gives_no_features(nodes, clips, kind):
    for name, node in nodes.items():
        with pytest.raises(GligenError) as error:
            node(clips(kind) if kind else None, "a star")
        came = "PixArtT5XXL" if kind else "nothing came"
        assert "clip: came" in str(error.value).replace("nothing came", "came"), name
        assert came in str(error.value), name


def projected(clip):
    """With a text projection, as clip_l.safetensors has it."""
    weights = clip.get_sd()
    weights["clip_l.transformer.text_projection.weight"] = torch.ones(WIDTH, WIDTH)
    return SimpleNamespace(
        get_sd=lambda: weights, tokenize=clip.tokenize, encode_from_tokens=clip.encode_from_tokens
    )


@pytest.mark.parametrize(
    "node", ["GLIGEN Text Box", "GLIGEN Text Boxes, linked", "GLIGEN Image Box"]
)
@pytest.mark.parametrize(
    "phrase, told",
    [
        (LONG, "longer than the 75 tokens"),
        ("(a star:1.5)", "the weight would do nothing"),
        ("a ((red)) star", "the weight would do nothing"),
        ("embedding:missing, a star", "embedding:missing would do nothing"),
        ("a star, embedding:other_base", "embedding:other_base would do nothing"),
        ("a star embedding:", "embedding: would do nothing"),
    ],
)
def test_words_that_would_do_nothing_are_told_where_they_are_typed(
    nodes, clips, node, phrase, told
):
    with pytest.raises(GligenError, match=told) as error:
        nodes[node](projected(clips("sd1")), phrase)
    assert f'Phrase "{phrase[:20]}' in str(error.value)


@pytest.mark.parametrize(
    "phrase",
    ["star " * 75, "a star (red)".replace("(", r"\(").replace(")", r"\)"), "embedding:mine",
     "a star, embedding:mine, red", "(a star:1.0)", "(embedding:mine:1.0)"],
)  # fmt: skip
def test_words_that_clip_reads_are_taken(clips, features, phrase):
    for kind in ("sd1", "sd2", "flux"):
        assert len(features(clips(kind), [phrase], WIDTH)[phrase]) == WIDTH


def test_what_is_refused_is_what_the_host_leaves_out(clips):
    """The reason for the refusals: the feature is the same as without those words."""
    clip = clips("sd1")

    def feature(text):
        return clip.encode_from_tokens(clip.tokenize(text), return_pooled="unprojected")[1]

    assert torch.equal(feature("(a star:1.5)"), feature("a star"))
    assert torch.equal(feature("embedding:missing"), feature(""))
    assert torch.equal(feature(LONG + "ring"), feature(LONG + "cross"))
    assert not torch.equal(feature("embedding:mine"), feature(""))


def test_all_bad_phrases_are_told_in_one_message(clips, features):
    with pytest.raises(GligenError) as error:
        features(clips("sd1"), ["(a star:1.5)", "a ring", LONG], WIDTH)
    assert [line[:12] for line in str(error.value).splitlines()] == ['Phrase "(a s', 'Phrase "star']
