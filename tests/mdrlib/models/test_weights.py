"""Files of weights: damaged ones and ones with no numbers that a network could have are refused by name."""

import random

import pytest
import torch

from mdrlib.models import build_embedder


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return build_embedder("tiny", 4).state_dict()


@pytest.fixture(scope="module")
def matrix(state):
    """The name of the largest matrix."""
    return max((key for key in state if state[key].ndim > 1), key=lambda key: state[key].numel())


def loaded(path):
    return build_embedder("tiny", 4, weights=path).state_dict()


def test_a_flipped_bit_anywhere_is_refused_or_harmless(tmp_path, state):
    """Most are in numbers, where only a checksum shows them."""
    path = tmp_path / "weights.pt"
    torch.save({"model": state}, path)
    whole, refused = path.read_bytes(), 0
    draw = random.Random(0)
    for place in [draw.randrange(len(whole)) for _ in range(300)]:
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            found = loaded(path)
        except ValueError as error:
            assert "weights.pt" in str(error) and "\n" not in str(error)
            refused += 1
        else:  # in padding
            assert all(torch.equal(found[key], state[key]) for key in state)
    assert refused > 200


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x: x.long(), "is torch.int64"),
        (lambda x: x.bool(), "is torch.bool"),
        (lambda x: x.to(torch.complex64), "is torch.complex64"),
        (lambda x: torch.where(x == x.max(), torch.nan, x), "holds NaN or infinite values"),
        (lambda x: torch.full_like(x, -torch.inf), "holds NaN or infinite values"),
        (lambda x: x.double() * 1e300, "holds NaN or infinite values"),
        (torch.zeros_like, "is all zero"),
        (lambda x: x.to_sparse(), "torch.sparse_coo"),
    ],
)
def test_tensors_that_no_network_has_are_refused_by_name(tmp_path, state, matrix, change, words):
    path = tmp_path / "weights.pt"
    torch.save(state | {matrix: change(state[matrix])}, path)
    with pytest.raises(ValueError, match=f"weights.pt: {matrix} .*{words}"):
        loaded(path)


def test_half_double_and_zero_biases_are_taken(tmp_path, state):
    path = tmp_path / "weights.pt"
    for change in (torch.Tensor.half, torch.Tensor.double, torch.Tensor.bfloat16):
        torch.save({k: change(v) if v.is_floating_point() else v for k, v in state.items()}, path)
        found = loaded(path)
        assert all(torch.equal(found[k], change(v).to(v.dtype)) for k, v in state.items())
    zeroed = {k: torch.zeros_like(v) if k.endswith("bias") else v for k, v in state.items()}
    torch.save(zeroed, path)
    assert all(torch.equal(value, zeroed[key]) for key, value in loaded(path).items())


def test_a_file_of_zeros_is_refused(tmp_path, state, matrix):
    path = tmp_path / "weights.pt"
    torch.save(dict.fromkeys(state, torch.zeros(1)), path)
    with pytest.raises(ValueError, match="does not fit"):
        loaded(path)
    torch.save({key: torch.zeros_like(value) for key, value in state.items()}, path)
    with pytest.raises(ValueError, match="is all zero"):
        loaded(path)
