"""Pictures look the same whether the model gets pixels or scaled images."""

import numpy as np
import pytest

pytest.importorskip("PIL")


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_pixels_and_scaled_images_give_the_same_picture(dtype: type, largest: int) -> None:
    from loopwright.trainer.observe.pictures import image_png

    stored = np.random.default_rng(0).integers(0, largest + 1, (8, 8, 3)).astype(dtype)
    stored[0, 0] = largest
    pixels = stored.astype(np.float32)
    assert image_png(pixels) == image_png(pixels / largest)
