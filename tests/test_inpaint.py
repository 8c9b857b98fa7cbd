"""What is painted anew and what is known of a picture, one that is no square."""

import torch
from rig import Vae, extra_channels, in_area, picture, relative
from test_places import AREA, BOXES, PIXELS, TALL, ours


def in_boxes(*boxes):
    """1 outside of boxes (x, y, width, height in pixels), 0 in them, on the tall latent."""
    known = torch.ones(1, 1, *TALL)
    for x, y, width, height in boxes:
        known[..., y // 8 : (y + height) // 8, x // 8 : (x + width) // 8] = 0
    return known


INPAINTING = "text box inpainting"


def inpainted(rig, positive, mask=None, **inputs):
    """Conditioning and latent of GLIGEN Inpaint on a tall picture."""
    image = picture(5, size=PIXELS)
    links = {"image": image} | ({} if mask is None else {"mask": mask})
    return rig.node(
        "GligenInpaint", conditioning=positive, gligen=rig.gligen(INPAINTING), vae=Vae(),
        **links | inputs,
    )  # fmt: skip


def scaled(rig, latent):
    return rig.model.model.process_latent_in(latent)


def test_all_boxes_are_painted_and_the_rest_of_a_tall_picture_is_known(rig):
    positive, latent = inpainted(rig, ours(rig, kind=INPAINTING))
    known = in_boxes(*BOXES.values())
    assert latent["samples"].shape[-2:] == TALL
    assert torch.equal(latent["noise_mask"].reshape(1, 1, *TALL), 1 - known)
    (seen,) = extra_channels(rig, rig.gligen(INPAINTING), positive, latent=latent["samples"])
    assert torch.equal(seen[:, 4:], known)
    assert relative(seen[:, :4], scaled(rig, latent["samples"]) * known) < 1e-6


def test_a_soft_mask_is_known_or_painted_at_each_place_nothing_between(rig):
    soft = torch.rand(1, 1, *TALL, generator=torch.manual_seed(1)) * 0.1
    mask = soft[0].repeat_interleave(8, 1).repeat_interleave(8, 2)
    positive, latent = inpainted(rig, ours(rig, kind=INPAINTING), mask)
    (seen,) = extra_channels(rig, rig.gligen(INPAINTING), positive, size=TALL)
    painted = (soft >= 0.05).float()
    assert 0.3 < painted.mean() < 0.7 and torch.equal(seen[:, 4:], 1 - painted)
    assert torch.equal(latent["noise_mask"], painted)


def test_a_picture_at_another_size_of_latent_is_resized_as_its_mask_is(rig):
    positive, latent = inpainted(rig, ours(rig, kind=INPAINTING))
    (seen,) = extra_channels(rig, rig.gligen(INPAINTING), positive, size=(48, 32))
    twice = in_boxes(*BOXES.values()).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert set(seen[:, 4:].unique().tolist()) == {0.0, 1.0}
    assert (seen[:, 4:] != twice).float().mean() < 0.1
    corner = scaled(rig, latent["samples"])[0, :, -1, 0]
    assert torch.allclose(seen[0, :4, -1, 0], corner, atol=1e-5)


def test_an_inpainting_model_in_two_areas_of_one_size_sees_in_each_what_lies_in_it(rig):
    positive, latent = inpainted(rig, ours(rig, kind=INPAINTING))
    x, *rest = AREA
    both = in_area(positive, x, *rest) + in_area(positive, x - 64, *rest)
    seen = extra_channels(rig, rig.gligen(INPAINTING), both, latent=latent["samples"])
    known = in_boxes(*BOXES.values())
    whole = torch.cat([scaled(rig, latent["samples"]) * known, known], dim=1)[..., 5:23, :]
    assert len(seen) == 2
    for half in (whole[..., :8], whole[..., 8:]):
        assert min(relative(one, half) for one in seen) < 1e-6
