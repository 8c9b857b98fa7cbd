"""The tokenizers against the formulas in float64 and against diffusers, and what they make of entities."""

import pytest
import reference
import small
import torch
from gligen_pack.gligen_ops.entities import BoxEntity, Pose, SpatialMap
from gligen_pack.gligen_ops.places import Box
from gligen_pack.gligen_ops.tokenizers.box import BoxTokenizer
from gligen_pack.gligen_ops.tokenizers.convnext import ConvNeXt, authors_name, host_name
from gligen_pack.gligen_ops.tokenizers.fourier import fourier_embedding
from gligen_pack.gligen_ops.tokenizers.keypoints import KeypointTokenizer
from gligen_pack.gligen_ops.tokenizers.maps import MapTokenizer, SemanticMapTokenizer
from gligen_pack.gligen_ops.tokenizers.text_image import TextImageTokenizer
from reference import relative
from tensors import Tensors

TOLERANCE = 1e-5
BACKBONE = "convnext_tiny_backbone."


def doubled(module):
    """Its weights in float64, by the authors' names."""
    return {authors_name(k): v.double() for k, v in module.state_dict().items()}


def random_mask(*shape):
    return (torch.rand(shape) < 0.4).float()


def boxes(count=2):
    torch.manual_seed(3)
    return torch.rand(count, 30, 4), random_mask(count, 30)


def make(kind, *widths):
    tokenizer = small.randomise(kind(*widths), seed=4)
    for name, weight in tokenizer.named_parameters():
        if "layer_scale" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return tokenizer.requires_grad_(False)


def made_of(kind):
    """A tokenizer of each kind, inputs of a batch of two for it, and its formula."""
    place, mask = boxes()
    if kind is BoxTokenizer:
        inputs = place, mask, torch.randn(2, 30, 96)
        return make(kind, 96, 64), inputs, reference.box_tokens
    if kind is TextImageTokenizer:
        masks = mask, mask * random_mask(2, 30), mask * random_mask(2, 30)
        inputs = place, *masks, torch.randn(2, 30, 96), torch.randn(2, 30, 96)
        return make(kind, 96, 64), inputs, reference.text_image_tokens
    if kind is KeypointTokenizer:
        inputs = torch.rand(2, 136, 2), random_mask(2, 136)
        return make(kind, 64), inputs, reference.keypoint_tokens
    tokenizer = make(kind, 64, 48, 16)
    maps = torch.rand(2, tokenizer.channels, 128, 128) * 2 - 1
    return tokenizer, (maps, torch.tensor([[1.0], [0.0]])), reference.map_tokens


KINDS = [BoxTokenizer, TextImageTokenizer, KeypointTokenizer, MapTokenizer, SemanticMapTokenizer]
TOKENS = {BoxTokenizer: 30, TextImageTokenizer: 60, KeypointTokenizer: 136}
MAPS = [MapTokenizer, SemanticMapTokenizer]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_the_papers_formula(kind):
    tokenizer, inputs, formula = made_of(kind)
    expected = formula(doubled(tokenizer), *(t.double() for t in inputs))
    tokens = tokenizer(*inputs)
    assert tokens.shape == (2, TOKENS.get(kind, 16), 48 if kind in MAPS else 64)
    assert relative(tokens, expected) < TOLERANCE
    assert relative(tokens[0], tokens[1]) > 0.01


def test_fourier_embedding_is_the_formula_in_the_checkpoints_order():
    boxes = torch.rand(5, 30, 4)
    assert relative(fourier_embedding(boxes), reference.fourier(boxes.double())) < TOLERANCE
    # Frequency-major: the first eight numbers are the four sines, then the four cosines, of 1 · x.
    x = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert torch.allclose(fourier_embedding(x)[:8], torch.cat([x.sin(), x.cos()]))


def test_box_tokens_are_those_of_diffusers():
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    tokenizer, inputs, _ = made_of(BoxTokenizer)
    theirs = embeddings.GLIGENTextBoundingboxProjection(96, 64).requires_grad_(False)
    theirs.load_state_dict(tokenizer.state_dict())
    assert relative(tokenizer(*inputs), theirs(*inputs)) < TOLERANCE


def test_text_and_image_tokens_are_those_of_diffusers():
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    tokenizer, inputs, _ = made_of(TextImageTokenizer)
    place, mask, text_mask, image_mask, text, image = inputs
    theirs = embeddings.GLIGENTextBoundingboxProjection(96, 64, "text-image").requires_grad_(False)
    theirs.load_state_dict(tokenizer.state_dict())
    expected = theirs(
        boxes=place, masks=mask, phrases_masks=text_mask, image_masks=image_mask,
        phrases_embeddings=text, image_embeddings=image,
    )  # fmt: skip
    assert relative(tokenizer(*inputs), expected) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS[:3])
def test_an_empty_slot_does_not_show_what_is_written_in_it(kind):
    tokenizer, inputs, _ = made_of(kind)
    mask = inputs[1]
    empty = [t.clone().index_put((mask == 0,), torch.tensor(100.0)) for t in inputs]
    empty[1:2] = [mask]
    if kind is TextImageTokenizer:
        empty[2:4] = inputs[2:4]
    hidden = (mask == 0).repeat(1, TOKENS[kind] // mask.shape[1])
    assert torch.equal(tokenizer(*inputs)[hidden], tokenizer(*empty)[hidden])


# ---------------------------------------------------------------- entities


def box_entity(x, text=True, image=True):
    features = [torch.randn(96) if given else None for given in (text, image)]
    return BoxEntity(Box(x, 0.1, x + 0.2, 0.9), "a cat", *features)


def entities(kind, count):
    torch.manual_seed(5)
    if kind in (BoxTokenizer, TextImageTokenizer):
        return [box_entity(0.1 * i) for i in range(count)]
    if kind is KeypointTokenizer:
        return [Pose(torch.rand(17, 2)) for _ in range(count)]
    return [SpatialMap(torch.rand(kind.channels, 64, 64))] * count


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_a_batch_of_one_in_float32(kind):
    tokenizer, *_ = made_of(kind)
    for count in {0, 1, tokenizer.slots}:
        inputs = tokenizer.inputs(entities(kind, count))
        assert all(t is None or (len(t) == 1 and t.dtype == torch.float32) for t in inputs)
        assert tokenizer(*inputs).shape[:2] == (1, len(tokenizer.slot_of_token))


@pytest.mark.parametrize("kind", KINDS)
def test_no_entities_are_the_null_grounding(kind):
    """All masks 0: whatever else is given then does not show."""
    tokenizer, inputs, _ = made_of(kind)
    inputs = [t[:1] for t in inputs]
    for i in (1, 2, 3) if kind is TextImageTokenizer else (1,):
        inputs[i] = torch.zeros_like(inputs[i])
    null = tokenizer(*tokenizer.inputs([]))
    assert torch.allclose(tokenizer(*inputs), null, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_makes_the_tokens_that_it_owns_and_no_others(kind):
    tokenizer, *_ = made_of(kind)
    given = entities(kind, tokenizer.slots)
    slot = tokenizer.slots - 1
    with_it, without = (tokenizer(*tokenizer.inputs(e))[0] for e in (given, given[:slot]))
    changed = (with_it != without).any(-1).tolist()
    assert changed == [owner == slot for owner in tokenizer.slot_of_token]
    assert set(tokenizer.slot_of_token) == set(range(tokenizer.slots))


def slots(rows, width, of=30):
    """The first slots of a batch of one; zeros where there is nothing."""
    return torch.cat([torch.stack(rows), torch.zeros(of - len(rows), width)])[None]


@pytest.mark.parametrize("kind", [BoxTokenizer, TextImageTokenizer])
def test_each_entitys_corners_text_and_picture_are_in_the_slot_of_its_own(kind):
    tokenizer, _, formula = made_of(kind)
    given = [Box(0.1, 0.2, 0.4, 0.9), Box(0.5, 0.0, 0.7, 0.3), Box(0.25, 0.75, 1.0, 0.875)]
    text, image = torch.randn(2, 3, 96)
    nothing = torch.zeros(96)
    with_all = [BoxEntity(box, "a", text[i], image[i]) for i, box in enumerate(given)]
    with_all[1] = BoxEntity(given[1], "b", text[1], None)
    with_all[2] = BoxEntity(given[2], "", text[2] if kind is BoxTokenizer else None, image[2])
    corners = [torch.tensor([box.x0, box.y0, box.x1, box.y1]) for box in given]
    one, zero = torch.ones(1), torch.zeros(1)
    expected = [slots(corners, 4), slots([one] * 3, 1)[..., 0]]
    if kind is BoxTokenizer:
        expected += [slots([*text], 96)]
    else:
        expected += [slots([one, one, zero], 1)[..., 0], slots([one, zero, one], 1)[..., 0]]
        expected += [slots([*text[:2], nothing], 96), slots([image[0], nothing, image[2]], 96)]
    inputs = tokenizer.inputs(with_all)
    assert len(inputs) == len(expected)
    assert all(torch.equal(*pair) for pair in zip(inputs, expected, strict=True))
    tokens = formula(doubled(tokenizer), *(t.double() for t in expected))
    assert relative(tokenizer(*inputs), tokens) < TOLERANCE


def test_each_persons_points_are_in_its_own_places_x_before_y():
    tokenizer, _, formula = made_of(KeypointTokenizer)
    points = torch.rand(3, 17, 2) * torch.tensor([0.5, 1.0])
    inputs = tokenizer.inputs([Pose(person) for person in points])
    expected = torch.cat([points.reshape(51, 2), torch.zeros(85, 2)])[None]
    assert torch.equal(inputs[0], expected)
    mask = torch.tensor([[1.0] * 51 + [0.0] * 85])
    assert torch.equal(inputs[1], mask)
    tokens = formula(doubled(tokenizer), expected.double(), mask.double())
    assert relative(tokenizer(*inputs), tokens) < TOLERANCE


def test_an_entity_without_text_or_image_masks_that_half_alone():
    tokenizer, *_ = made_of(TextImageTokenizer)
    inputs = tokenizer.inputs(
        [box_entity(0.1), box_entity(0.2, image=False), box_entity(0.3, text=False)]
    )
    _, mask, text_mask, image_mask, *_ = (t[0, :4].tolist() for t in inputs)
    assert mask == [1, 1, 1, 0]
    assert text_mask == [1, 1, 0, 0]
    assert image_mask == [1, 0, 1, 0]


def test_a_keypoint_at_the_corner_is_missing_and_one_at_an_edge_is_not():
    tokenizer, *_ = made_of(KeypointTokenizer)
    points = torch.rand(17, 2)
    points[3] = 0
    points[4, 0] = 0
    points[5, 1] = 0
    _, mask = tokenizer.inputs([Pose(points), Pose(points)])
    assert mask[0].tolist() == ([1, 1, 1, 0] + [1] * 13) * 2 + [0] * 17 * 6


# ---------------------------------------------------------------- maps


@pytest.mark.parametrize("height, width", [(256, 384), (100, 333), (333, 100), (128, 128)])
def test_a_map_of_any_sides_is_resized_to_the_nearest_pixel(height, width):
    """And not to a mean of its neighbours: classes and edges have none."""
    tokenizer, *_ = made_of(MapTokenizer)
    picture = torch.rand(3, height, width)
    rows, columns = ([i * side // 128 for i in range(128)] for side in (height, width))
    square = picture[:, rows][:, :, columns]
    tokens = [tokenizer(*tokenizer.inputs([SpatialMap(p)])) for p in (picture, square)]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("kind", MAPS)
def test_maps_of_a_batch_are_each_their_own(kind):
    tokenizer, (maps, _), formula = made_of(kind)
    mask = torch.ones(2, 1)
    expected = formula(doubled(tokenizer), maps.double(), mask.double())
    assert relative(tokenizer(maps, mask), expected) < TOLERANCE
    one = tokenizer(*tokenizer.inputs([SpatialMap(maps[1])]))
    assert relative(one, expected[1:]) < TOLERANCE


def test_a_grey_map_is_one_of_three_equal_channels():
    tokenizer, (maps, _), _ = made_of(MapTokenizer)
    grey = maps[0, :1]
    tokens = [tokenizer(*tokenizer.inputs([SpatialMap(p)])) for p in (grey, grey.repeat(3, 1, 1))]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("kind", MAPS)
def test_no_map_runs_no_backbone(kind):
    tokenizer, *_ = made_of(kind)
    tokenizer.convnext_tiny_backbone.forward = None
    null = tokenizer(None, torch.zeros(3, 1))
    assert null.shape == (3, 16, 48)


def test_tokens_are_those_of_the_places_row_by_row():
    tokenizer, (maps, mask), _ = made_of(MapTokenizer)
    for name, weight in tokenizer.named_parameters():
        if "layer_scale" in name:  # without its blocks, a place of ConvNeXt sees 32 × 32 pixels
            torch.nn.init.zeros_(weight)
    other = maps.clone()
    other[:, :, 1 * 32 : 2 * 32, 3 * 32 : 4 * 32] += torch.rand(32, 32)  # row 1, column 3
    moved = (tokenizer(maps, mask) - tokenizer(other, mask)).norm(dim=-1)
    assert [divmod(i, 4) for i in moved[0].nonzero().flatten().tolist()] == [(1, 3)]
    assert not moved[1].any()


@pytest.mark.parametrize("tokens, pixels", [(196, 448), (64, 256)])
def test_the_number_of_tokens_decides_at_which_size_a_map_is_read(tokens, pixels):
    """The authors' code reads maps of 448 × 448 pixels, their configurations ask for 256 × 256."""
    tokenizer = make(MapTokenizer, 16, 48, tokens)
    seen = []
    tokenizer.convnext_tiny_backbone.register_forward_pre_hook(lambda _, i: seen.append(i[0].shape))
    inputs = tokenizer.inputs([SpatialMap(torch.rand(3, 512, 600))])
    assert tokenizer(*inputs).shape == (1, tokens, 48)
    assert seen == [(1, 3, pixels, pixels)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_backbone_keeps_to_its_dtype(dtype):
    """It computes in what its weights are, whatever its input is, and they stay as they are."""
    tokenizer, (maps, mask), _ = made_of(MapTokenizer)
    expected = tokenizer(maps, mask)
    backbone = tokenizer.convnext_tiny_backbone.to(dtype)
    seen = []
    backbone.register_forward_hook(lambda _, x, y: seen.extend([x[0].dtype, y.dtype]))
    tokens = tokenizer(maps, mask)
    assert seen == [dtype, dtype]
    assert {p.dtype for p in backbone.parameters()} == {dtype}
    assert tokens.dtype == torch.float32
    assert 0 < relative(tokens, expected) < 0.05


def test_names_of_convnext_map_one_to_one_onto_the_authors():
    authors = Tensors(0)
    authors.convnext("backbone", 64)
    with torch.device("meta"):
        own = {f"backbone.{name}": w.shape for name, w in ConvNeXt(64).state_dict().items()}
    shapes = {authors_name(name): shape for name, shape in own.items()}
    assert len(own) == 178
    assert shapes == {name: tensor.shape for name, tensor in authors.tensors.items()}
    assert [host_name(authors_name(name)) for name in own] == list(own)
    assert {host_name(name) for name in authors.tensors} == own.keys()
