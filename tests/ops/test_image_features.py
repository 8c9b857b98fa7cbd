"""Image features in the space of text features."""

import torch
from gligen_pack.gligen_ops.tokenizers.image_prompt import image_feature


def test_an_image_feature_is_projected_into_the_space_of_text_and_has_the_length_of_one():
    """P_tᵀ P_i h, of length 28.7, for a projection that is no square and one that is."""
    for shared, width in ((12, 20), (16, 16)):
        embedding, projection = torch.randn(shared), torch.randn(shared, width)
        expected = torch.stack([(embedding * projection[:, i]).sum() for i in range(width)])
        feature = image_feature(embedding, projection)
        assert feature.shape == (width,)
        torch.testing.assert_close(feature, expected / expected.norm() * 28.7)
        torch.testing.assert_close(feature, image_feature(9 * embedding, projection))
