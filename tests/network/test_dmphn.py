"""DMPHN: the structure of the paper, told by its names, read from the files that were published."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deblur_deploy.core.errors import ArtifactError, ConfigError
from deblur_deploy.network.checkpoint import import_checkpoint, load_network
from deblur_deploy.network.dmphn import DMPHN, DMPHNConfig

PARAMS = 868_288 + 939_843
"""Of the published encoder and decoder of a level."""


def trained(levels: int = 3) -> DMPHN:
    torch.manual_seed(0)
    return DMPHN(DMPHNConfig(levels)).eval()


def save_published(net: DMPHN, folder) -> None:
    """The files of each level's encoder and decoder, as the authors saved them."""
    folder.mkdir()
    for name, part in net.named_children():
        torch.save(part.state_dict(), folder / f"{name}.pkl")


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_every_depth_of_the_paper_has_an_encoder_and_a_decoder_a_level(levels):
    net = trained(levels)

    assert sum(parameter.numel() for parameter in net.parameters()) == levels * PARAMS
    assert net(torch.rand(1, 3, 21, 34)).shape == (1, 3, 21, 34)


def test_the_three_levels_are_put_together_as_in_the_paper():
    """Written out, patch by patch."""
    net = trained()
    picture = torch.rand(1, 3, 16, 24)
    x = picture - 0.5
    top, bottom = x[:, :, :8], x[:, :, 8:]
    quarters = [half[:, :, :, side] for half in (top, bottom) for side in (slice(0, 12), slice(12, 24))]
    with torch.no_grad():
        three = [net.encoder_lv3(quarter) for quarter in quarters]
        three_top, three_bottom = torch.cat(three[:2], 3), torch.cat(three[2:], 3)
        two_top = net.encoder_lv2(top + net.decoder_lv3(three_top))
        two_bottom = net.encoder_lv2(bottom + net.decoder_lv3(three_bottom))
        two = torch.cat([two_top, two_bottom], 2) + torch.cat([three_top, three_bottom], 2)
        one = net.encoder_lv1(x + net.decoder_lv2(two)) + two
        wanted = net.decoder_lv1(one) + 0.5

        torch.testing.assert_close(net(picture), wanted)


def test_no_activation_stands_outside_the_residual_blocks():
    activations = [name for name, layer in DMPHN().named_modules() if isinstance(layer, nn.ReLU)]

    assert len(activations) == 3 * 12
    assert all(name.endswith(".1") for name in activations)


def test_the_folder_of_published_files_is_one_network(tmp_path):
    net = trained()
    save_published(net, tmp_path / "weights")

    artifact = import_checkpoint(tmp_path / "weights", "dmphn", tmp_path / "artifact")

    assert artifact.network.config["levels"] == 3
    assert artifact.image.multiple_of == 8
    picture = torch.rand(1, 3, 24, 40)
    with torch.no_grad():
        assert torch.equal(load_network(artifact)(picture), net(picture))


def test_one_state_dict_of_all_parts_will_do(tmp_path):
    net = trained(2)
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in net.state_dict().items()}}, tmp_path / "n.pth"
    )

    assert import_checkpoint(tmp_path / "n.pth", "dmphn", tmp_path / "artifact").network.config["levels"] == 2


def test_a_folder_that_lacks_a_file_says_what_is_missing(tmp_path):
    save_published(trained(), tmp_path / "weights")
    (tmp_path / "weights" / "decoder_lv2.pkl").unlink()

    with pytest.raises(ArtifactError, match=r"decoder_lv2\.layer13\.0\.weight"):
        import_checkpoint(tmp_path / "weights", "dmphn", tmp_path / "artifact")


def test_levels_that_the_paper_does_not_have_are_refused():
    with pytest.raises(ConfigError, match="1 to 4 levels, not 5"):
        DMPHNConfig(5)
