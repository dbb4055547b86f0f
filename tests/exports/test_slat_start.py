import torch

from mvsam3d.exports.slat_start import write_slat_start


def test_public_keys_read_as_data(tmp_path):
    coords, noise = torch.randint(0, 64, (5, 4)).int(), torch.randn(2, 5, 8)[1:]
    tokens = torch.randn(3, 1, 7, 16)
    for name in ("a", "b"):
        write_slat_start(tmp_path / f"{name}.pt", coords, noise, tokens, steps=25, guidance=1.0)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    keys = (
        "coords initial_noise latent_shape num_views inference_steps condition_args slat_cfg_strength use_distillation"
    )
    assert list(content) == keys.split(" ")
    assert torch.equal(content["coords"], coords)
    assert torch.equal(content["initial_noise"], noise)
    assert torch.equal(content["condition_args"][0], tokens)
    assert content["latent_shape"] == (1, 5, 8)
    assert (content["num_views"], content["inference_steps"], content["slat_cfg_strength"]) == (3, 25, 1.0)
    assert content["initial_noise"].untyped_storage().nbytes() == 4 * noise.numel()  # not the tensor it was cut from
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
