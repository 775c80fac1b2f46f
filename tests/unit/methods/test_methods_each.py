"""What is particular to a method: its choices, its refusals, and the tensors it may touch."""

from __future__ import annotations

import pytest
import torch

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import BUILDERS, images, make
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.methods.base import METHODS, install


def trained(name: str, backbone: str = "vit_cls", **options: object) -> list[str]:
    """Names of the tensors that train, without the leading `net.`."""
    built = make(backbone)
    install(METHODS.get(name)(**options), built)
    return [tensor.removeprefix("net.") for tensor, _ in built.trainable]


def last_block_input(name: str, backbone: str, **options: object) -> list[int]:
    """Lengths of the sequences the attentions of all blocks see, with a method installed."""
    built: Backbone = make(backbone)
    install(METHODS.get(name)(**options), built)
    lengths: list[int] = []
    for site in built.sites("attn.qkv"):
        site.module.register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
    with torch.no_grad():
        built.eval()(images(1))
    return lengths


def test_full_and_linear_are_all_and_nothing() -> None:
    assert trained("linear") == []
    assert len(trained("full")) == len(list(make("vit_cls").parameters()))


@pytest.mark.parametrize("backbone", BUILDERS)
def test_bitfit_trains_every_bias_and_no_weight(backbone: str) -> None:
    expected = [name for name, _ in make(backbone).net.named_parameters() if name.endswith(".bias")]
    assert trained("bitfit", backbone) == expected
    # a plain ViT has those of the embedding, six a block and the last norm; with norms on queries and keys two more
    assert {"vit_cls": 1 + 3 * 6 + 1, "vit_qknorm": 1 + 3 * 8 + 1}.get(backbone, len(expected)) == len(expected)


def test_bitfit_skips_what_has_no_bias() -> None:
    # the embedding of this model has none
    assert "patch_embed.proj.bias" not in trained("bitfit", "vit_prenorm")
    assert "norm_pre.bias" in trained("bitfit", "vit_prenorm")


def test_lora_adapts_the_chosen_maps_only() -> None:
    assert all(".attn.qkv." in name for name in trained("lora"))
    assert len(trained("lora")) == 3 * 2 * 2
    names = trained("lora", targets=["fc2", "k"])
    assert {name.split(".deltas")[0] for name in names if name.startswith("blocks.1.")} == {
        "blocks.1.attn.qkv",
        "blocks.1.mlp.fc2",
    }
    assert len(names) == 3 * 2 * 2


@pytest.mark.parametrize("targets", [[], ["q", "q"], ["qkv"], ["fc3"]])
def test_lora_refuses_meaningless_targets(targets: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"method\.targets"):
        METHODS.get("lora")(targets=targets)


def test_lora_without_attention_works_where_there_is_none() -> None:
    assert all(".mlp.fc1." in name for name in trained("lora", "convnext", targets=["fc1"]))
    with pytest.raises(NotApplicable, match=r"attn\.qkv"):
        trained("lora", "convnext")


def test_lora_dropout_acts_in_training_only() -> None:
    backbone = make("vit_cls")
    install(METHODS.get("lora")(dropout=0.5), backbone)
    with torch.no_grad():
        for _, tensor in backbone.trainable:
            tensor.add_(0.1)
        backbone.eval()
        assert torch.equal(backbone(images()), backbone(images()))
        backbone.train()
        assert not torch.equal(backbone(images()), backbone(images()))


def test_ssf_follows_every_operation_with_one_pair() -> None:
    names = trained("ssf")
    assert len(names) == 2 * (1 + 3 * 6 + 1)
    assert {name.rsplit(".", 1)[1] for name in names} == {"scale", "shift"}


def test_ssf_without_noise_is_the_identity() -> None:
    bare, backbone = make("vit_cls"), make("vit_cls")
    install(METHODS.get("ssf")(init_std=0.0), backbone)
    with torch.no_grad():
        assert torch.equal(backbone.eval()(images()), bare(images()))


def test_adaptformer_stays_beside_layer_scale() -> None:
    bare, backbone = make("vit_layerscale"), make("vit_layerscale")
    install(METHODS.get("adaptformer")(dropout=0.0), backbone)
    with torch.no_grad():
        for built in (bare, backbone):
            for block in built.net.blocks:  # type: ignore[union-attr]
                inner = getattr(block, "base", block)
                inner.ls1.gamma.zero_()
                inner.ls2.gamma.zero_()
        for _, tensor in backbone.trainable:
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
        difference = (backbone.eval()(images()) - bare(images())).abs().max()
    assert difference > 1e-3, "a branch inside LayerScale would have been silenced"


@pytest.mark.parametrize(("backbone", "length"), [("vit_cls", 17), ("vit_avg", 16), ("vit_registers", 19)])
@pytest.mark.parametrize("name", ["vpt_shallow", "vpt_deep"])
def test_every_block_sees_the_prompts(name: str, backbone: str, length: int) -> None:
    assert last_block_input(name, backbone, num_tokens=5) == [length + 5] * 3


@pytest.mark.parametrize("name", ["vpt_shallow", "vpt_deep"])
def test_prompts_do_not_take_part_in_average_pooling(name: str) -> None:
    backbone = make("vit_avg")
    install(METHODS.get(name)(num_tokens=5), backbone)
    with torch.no_grad():
        assert backbone.eval().net.forward_features(images()).shape == (4, 16, 48)  # type: ignore[operator]


@pytest.mark.parametrize("backbone", ["swin", "convnext"])
@pytest.mark.parametrize("name", ["vpt_shallow", "vpt_deep"])
def test_prompts_need_one_sequence(name: str, backbone: str) -> None:
    with pytest.raises(NotApplicable, match=f"{name} needs one token sequence through all blocks; {backbone}"):
        trained(name, backbone)


@pytest.mark.parametrize("kernel_size", [3, 4, 5])
def test_dtl_plus_keeps_the_size_of_the_map_for_each_published_kernel(kernel_size: int) -> None:
    built = make("vit_cls")
    install(METHODS.get("dtl_plus")(kernel_size=kernel_size), built)
    with torch.no_grad():
        assert built.eval()(images(2)).shape == (2, 48)


def test_hst_says_why_it_cannot_train_on_a_single_image() -> None:
    built = make("vit_cls")
    install(METHODS.get("hst")(), built)
    with pytest.raises(ConfigError, match="two images in every training batch"):
        built.train()(images(1))
    assert len(built.eval()(images(1))) == 1
