import ast
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from data.common.files import REPOSITORY
from models.signed_distance import distance_to_mask, mask_to_distance, per_case_distance, signed_distance

TAU = 10.0


def random_blob(seed: int, shape=(12, 18, 15)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    return smooth > np.quantile(smooth, rng.uniform(0.02, 0.98))  # both classes, and either may be rare


def as_batch(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None, None]


spacings = st.tuples(*[st.floats(0.4, 6.0)] * 3)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), shape=st.tuples(*[st.integers(2, 24)] * 3), spacing=spacings)
def test_signed_distance_equals_the_exact_transform_of_scipy(seed, shape, spacing):
    mask = random_blob(seed, shape)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    expected = (outside.clip(0, TAU) - inside.clip(0, TAU)) / TAU
    assert np.abs(signed_distance(as_batch(mask), spacing, TAU)[0, 0].numpy() - expected).max() <= 1e-4


def test_one_voxel_worked_example():
    mask = torch.zeros(1, 1, 1, 1, 7)
    mask[..., 3] = 1
    phi = signed_distance(mask, (5.0, 1.0, 2.0), tau=5.0)
    assert phi.flatten().tolist() == pytest.approx([1, 0.8, 0.4, -0.4, 0.4, 0.8, 1])


def test_empty_and_full_masks_are_defined():
    mask = torch.stack([torch.zeros(1, 4, 5, 6), torch.ones(1, 4, 5, 6)])
    phi = signed_distance(mask, (1.0, 1.0, 1.0))
    assert torch.equal(phi, 1 - 2 * mask)


@pytest.mark.parametrize("corner", [(0, 0, 0), (20, 30, 28), (39, 49, 59)])
def test_a_small_tumour_in_a_large_box(corner):
    mask = np.zeros((40, 50, 60), bool)
    mask[tuple(slice(c, c + 5) for c in corner)] = True
    expected = ndimage.distance_transform_edt(~mask, sampling=(2.0, 0.7, 0.7))
    phi = signed_distance(as_batch(mask), (2.0, 0.7, 0.7), TAU)[0, 0].numpy()
    assert np.abs(phi[~mask] - expected[~mask].clip(0, TAU) / TAU).max() <= 1e-4
    assert (phi[mask] < 0).all()


def test_a_mask_of_a_single_voxel_is_full():
    assert signed_distance(torch.ones(1, 1, 1, 1, 1), (1.0, 1.0, 1.0)).item() == -1


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float32, torch.float64])
def test_every_type_of_mask_gives_a_distance_without_gradient(dtype):
    mask = as_batch(random_blob(4))
    phi = signed_distance(mask.to(dtype).requires_grad_(dtype.is_floating_point), (2.0, 1.0, 1.0))
    assert phi.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not phi.requires_grad
    assert torch.allclose(phi.float(), signed_distance(mask, (2.0, 1.0, 1.0)), atol=1e-6)


def test_each_sample_has_its_own_spacing():
    mask = as_batch(random_blob(3)).repeat(2, 1, 1, 1, 1)
    spacing = torch.tensor([[5.0, 0.7, 0.7], [1.0, 2.0, 2.0]])
    together = signed_distance(mask, spacing)
    for i in range(2):
        assert torch.allclose(together[i : i + 1], signed_distance(mask[i : i + 1], spacing[i].tolist()), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), spacing=spacings)
def test_the_transforms_invert_each_other_on_masks(seed, spacing):
    mask = as_batch(random_blob(seed))
    phi = signed_distance(mask, spacing)
    assert torch.equal(distance_to_mask(phi) > 0.5, mask > 0.5)
    assert torch.allclose(mask_to_distance(mask, spacing), phi, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_gradients_are_finite_and_reach_a_voxel_either_side_of_the_boundary(seed):
    mask = random_blob(seed)
    spacing = (1.0, 1.0, 1.0)
    near = (ndimage.binary_dilation(mask) & ~mask) | (mask & ~ndimage.binary_erosion(mask, border_value=1))
    weight = torch.rand(1, 1, *mask.shape, generator=torch.Generator().manual_seed(seed)) + 0.5
    d = signed_distance(as_batch(mask), spacing).requires_grad_()
    p = as_batch(mask).requires_grad_()
    (distance_to_mask(d) * weight).sum().backward()
    (mask_to_distance(p, spacing) * weight).sum().backward()
    for gradient in (d.grad, p.grad):
        assert torch.isfinite(gradient).all()
        assert (gradient[0, 0].numpy()[near] != 0).all()


def test_gradient_of_the_reciprocal_transform_matches_finite_differences():
    probability = torch.rand(2, 1, 4, 5, 3, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    probability = (0.9 * probability + 0.05).requires_grad_()
    spacing = torch.tensor([[2.0, 1.0, 1.5], [1.0, 1.0, 3.0]], dtype=torch.double)
    assert torch.autograd.gradcheck(lambda p: mask_to_distance(p, spacing, 5.0), probability)


def test_gradient_of_the_transform_matches_finite_differences():
    phi = signed_distance(as_batch(random_blob(5, (4, 5, 3))).double(), (2.0, 1.0, 1.5)).requires_grad_()
    assert torch.autograd.gradcheck(distance_to_mask, phi)


def test_the_published_steepness_has_no_gradient_two_voxels_from_the_boundary_and_ours_has():
    mask = torch.zeros(1, 1, 1, 1, 8)
    mask[..., :4] = 1
    two_away = [2, 5]
    gradient = {}
    for k in (50.0, 1500.0):
        d = signed_distance(mask, (0.9, 0.9, 0.9)).requires_grad_()
        distance_to_mask(d, k).sum().backward()
        gradient[k] = d.grad.flatten()[two_away].abs()
    assert (gradient[1500.0] == 0).all()
    assert (gradient[50.0] > 1e-3).all()


def test_infinite_steepness_is_the_published_threshold_and_trains_nothing():
    mask = as_batch(random_blob(6))
    d = signed_distance(mask, (1.0, 1.0, 1.0)).requires_grad_()
    hard = distance_to_mask(d, k=math.inf)
    assert torch.equal(hard, mask)
    assert not hard.requires_grad
    assert distance_to_mask(torch.zeros(1), k=math.inf).item() == 0


def test_published_steepness_saturates_within_a_fraction_of_a_voxel():
    d = torch.tensor([-0.004, 0.0, 0.004])
    assert distance_to_mask(d, k=1500).tolist() == pytest.approx([0.9975, 0.5, 0.0025], abs=1e-3)


def test_transform_stays_in_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert distance_to_mask(torch.zeros(3, dtype=torch.bfloat16)).dtype == torch.float32


def test_per_case_distance_of_an_empty_and_a_full_mask_is_zero():
    mask = torch.stack([torch.zeros(1, 4, 5, 6), torch.ones(1, 4, 5, 6)])
    assert torch.equal(per_case_distance(mask), torch.zeros_like(mask))


@pytest.mark.parametrize("transform", [signed_distance, mask_to_distance])
@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, math.nan)])
def test_spacing_must_be_positive(transform, spacing):
    with pytest.raises(ValueError, match="must be positive"):
        transform(as_batch(random_blob(1)), spacing)


def test_models_import_nothing_but_torch():
    """And Triton for the kernels, which are imported only on a GPU."""
    for path in (REPOSITORY / "models").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module] if isinstance(node, ast.ImportFrom) else []
            outside = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
            allowed = {"torch", "models", *(["triton"] if path.stem == "fused_norm" else [])}
            assert outside <= allowed, f"{path.name}: {outside}"
