"""What the networks on images are made of: mixing, pooling, skip connections."""

import pytest
import torch
from torch import Tensor, nn
from zoo import inputs, make

import kanzoo
from kanzoo.layers import KANConvTranspose2d
from kanzoo.layers.patches import Patches


def reach(part: nn.Module, x: Tensor, token: int, channel: int) -> Tensor:
    """Where an output of a part that mixes depends on one value of its input, `(T, E)`."""
    x = x.clone().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda v: part(v)[0], x)  # (T, E, 1, T, E)
    return jacobian[:, :, 0, token, channel].abs() > 1e-8


@pytest.mark.parametrize("roles", [(), "all"])
def test_mixers_mix_tokens_and_channels_apart(roles: object) -> None:
    block = make("mixer", roles, norm="none").blocks[0]
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    tokens = reach(lambda v: block.tokens(v.mT).mT, x, 1, 5)
    assert tokens[:, 5].all()  # all places of the channel
    assert tokens.sum() == 4  # and no other channel
    channels = reach(block.channels, x, 1, 5)
    assert channels[1].all()
    assert channels.sum() == 8
    assert reach(block, x, 1, 5).all()  # both together, everything


def test_patches_are_squares_of_the_image() -> None:
    x = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    patches = Patches((2, 8, 12), 4)
    out = patches(x)
    assert out.shape == (3, patches.count, patches.features)
    for index in range(patches.count):
        row, column = 4 * (index // 3), 4 * (index % 3)
        square = x[:, :, row : row + 4, column : column + 4]
        assert torch.equal(out[:, index], square.flatten(1))


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 1, 1), (2, 9, 4)])
def test_convnets_take_images_of_any_shape(shape: tuple[int, ...]) -> None:
    net = kanzoo.create_model("convnet", width=4, in_shape=shape, norm="layer")
    assert net(torch.zeros(2, *shape)).shape == (2, 10)


def test_convnets_are_stages_of_growing_width() -> None:
    net = kanzoo.create_model("convnet", width=4, depth=2, taper=1.0, layers="mlp")
    convs = [m for m in net.convs if hasattr(m, "kernel_size") and hasattr(m, "weight")]
    assert [m.out_features for m in convs] == [4, 4, 8, 8, 16, 16]
    sizes: list[int] = []
    for conv in convs:
        conv.register_forward_hook(lambda _, __, out: sizes.append(out.shape[-1]))
    net(torch.zeros(1, 1, 28, 28))
    assert sizes == [28, 28, 14, 14, 7, 7]
    tapered = kanzoo.create_model("convnet", width=4, depth=2, taper=0.5, layers="mlp")
    convs = [m for m in tapered.convs if hasattr(m, "kernel_size") and hasattr(m, "weight")]
    assert [m.out_features for m in convs] == [2, 2, 4, 4, 8, 8]
    assert tapered.stem.out_features == 4


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("roles", [(), "all"])
def test_unets_keep_the_shape_of_images(roles: object, depth: int) -> None:
    net = make("unet", roles, depth=depth, width=4).eval()
    assert net(inputs("dense")).shape == (6, 10, 8, 8)
    other = torch.zeros(2, 1, 2 * 2**depth, 3 * 2**depth)  # also of other images
    assert net(other).shape == (2, 10, *other.shape[2:])
    with pytest.raises(ValueError, match="sides"):
        net(torch.zeros(2, 1, 2**depth + 1, 2**depth))
    transposed = [m for m in net.modules() if isinstance(m, KANConvTranspose2d)]
    assert len(transposed) == depth


def test_unets_hand_every_scale_across() -> None:
    """The decoder gets what the encoder saw at its scale, beside what comes from below."""
    net = make("unet", "all", depth=2, width=4).eval()
    seen: dict[nn.Module, Tensor] = {}
    for module in (*net.down, *net.up):
        module.register_forward_hook(lambda m, _, out: seen.update({m: out}))
    for module in net.merge:
        module.register_forward_pre_hook(lambda m, given: seen.update({m: given[0]}))
    net(inputs("dense"))
    for index, (up, merge) in enumerate(zip(net.up, net.merge, strict=True)):
        skip = net.down[1 - index]
        assert torch.equal(seen[merge], torch.cat([seen[skip], seen[up]], 1))
        assert seen[up].shape[-1] == 2 * seen[net.down[2 - index]].shape[-1]


def test_unets_see_more_than_the_neighbours() -> None:
    """The way down and up again reaches far pixels, which the convolutions of one scale do not."""
    net = kanzoo.create_model("unet", width=4, depth=2, norm="none", in_shape=(1, 32, 32), seed=0)
    x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    net(x)[0, :, 16, 16].sum().backward()
    assert x.grad is not None
    rows = x.grad[0, 0].abs().amax(1).nonzero().flatten()
    # 2 + 2 convolutions of 3x3 and the stem reach 5 pixels; one scale below adds much.
    assert 16 - int(rows.min()) > 8
    assert int(rows.max()) - 16 > 8
