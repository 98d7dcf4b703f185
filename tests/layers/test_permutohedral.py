import numpy as np
import pytest
import torch
from wsis.layers.crf import IRNET_KERNELS
from wsis.layers.permutohedral import PermutohedralLattice, SparseRows, _stable_sort


def matrix(rows: SparseRows, num_columns: int) -> np.ndarray:
    """The dense form."""
    dense = np.zeros((len(rows.offsets) - 1, num_columns))
    for row in range(len(dense)):
        for entry in range(rows.offsets[row], rows.offsets[row + 1]):
            dense[row, rows.columns[entry]] += float(rows.weights[entry])
    return dense


def features(dimensions: int, points: int, spread: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(points)
    return torch.randn((dimensions, points), generator=generator) * spread


def adams_filter(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The lattice as the paper writes it: dictionaries of integer tuples, one point at a time."""
    count, dims = points.shape
    scale = [np.sqrt(2 / 3) * (dims + 1) / np.sqrt((i + 1) * (i + 2)) for i in range(dims)]
    lattice, corners = {}, []
    for point, value in zip(points, values, strict=True):
        scaled = point * scale
        elevated = [scaled[i:].sum() - (i * scaled[i - 1] if i else 0) for i in range(dims + 1)]
        nearest = [round(e / (dims + 1)) * (dims + 1) for e in elevated]
        excess = sum(nearest) // (dims + 1)
        rank = np.argsort(np.argsort([n - e for n, e in zip(nearest, elevated, strict=True)]))
        for i in range(dims + 1):
            rank[i] += excess
            if rank[i] < 0:
                rank[i] += dims + 1
                nearest[i] += dims + 1
            elif rank[i] > dims:
                rank[i] -= dims + 1
                nearest[i] -= dims + 1
        weights = np.zeros(dims + 2)
        for i in range(dims + 1):
            offset = (elevated[i] - nearest[i]) / (dims + 1)
            weights[dims - rank[i]] += offset
            weights[dims + 1 - rank[i]] -= offset
        weights[0] += 1 + weights[dims + 1]
        mine = []
        for remainder in range(dims + 1):
            shift = [remainder - (dims + 1) * (r > dims - remainder) for r in rank]
            key = tuple(int(n + s) for n, s in zip(nearest, shift, strict=True))
            lattice[key] = lattice.get(key, 0) + weights[remainder] * value
            mine.append((key, weights[remainder]))
        corners.append(mine)
    for axis in range(dims + 1):
        step = np.ones(dims + 1, dtype=int)
        step[axis] = -dims
        lattice = {
            key: value
            + 0.5 * lattice.get(tuple(int(k) for k in key + step), 0)
            + 0.5 * lattice.get(tuple(int(k) for k in key - step), 0)
            for key, value in lattice.items()
        }
    return np.array([sum(w * lattice[key] for key, w in mine) for mine in corners])


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_matches_the_plain_lattice(dimensions):
    positions = features(dimensions, 60)
    values = torch.rand((60, 3), generator=torch.Generator().manual_seed(1))
    expected = adams_filter(positions.T.double().numpy(), values.double().numpy())
    actual = PermutohedralLattice(positions).filter(values)
    np.testing.assert_allclose(actual, expected, rtol=2e-4)


def float32_corners(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (N, d + 1, d + 1) and weights (N, d + 1), each float32 rounded as in pydensecrf."""
    dims, count = positions.shape
    axes, number = dims + 1, np.arange(count)
    spread = float(np.float32(np.sqrt(2 / 3) * axes))
    elevated, tail = np.zeros((axes, count), np.float32), np.zeros(count, np.float32)
    for i in range(axes - 1, 0, -1):
        scaled = positions[i - 1] * np.float32(spread / np.sqrt(i * (i + 1)))
        elevated[i] = tail - np.float32(i) * scaled
        tail = tail + scaled
    elevated[0] = tail
    nearest = np.float32(axes) * np.rint(elevated * np.float32(1 / axes))
    rest = elevated - nearest
    order = np.argsort(-rest, axis=0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(axes)[:, None], axis=0)
    rank = rank + (nearest.sum(0) / axes).astype(int)
    nearest = nearest + axes * ((rank < 0).astype(int) - (rank > dims))
    rank %= axes
    weights = np.zeros((axes + 1, count), np.float32)
    for i in range(axes):
        part = (elevated[i] - nearest[i].astype(np.float32)) * np.float32(1 / axes)
        weights[dims - rank[i], number] += part
        weights[dims + 1 - rank[i], number] -= part
    weights[0] += 1 + weights[axes]
    corners = [nearest + r - axes * (rank > dims - r) for r in range(axes)]
    return np.stack(corners).transpose(2, 0, 1).astype(int), weights[:axes].T


@pytest.mark.parametrize("seed", [1, 3, 7, 10])
def test_lattice_points_are_those_of_float32(seed):
    """With plain rounding each of these images has a lattice point more or less."""
    cells = np.random.default_rng(seed).integers(0, 256, (200, 300, 3))[::4, ::4]
    image = torch.from_numpy(cells.repeat(4, 0).repeat(4, 1).astype(np.uint8))
    positions = IRNET_KERNELS[1].features(image)
    corners, weights = float32_corners(positions.numpy())
    points, place = np.unique(corners.reshape(-1, 6), axis=0, return_inverse=True)
    lattice = PermutohedralLattice(positions)
    assert len(lattice.vertex_keys) == len(points)
    sums = np.bincount(place.ravel(), weights.ravel())
    found = lattice.splat.product(torch.ones((60_000, 1))).flatten()
    np.testing.assert_allclose(np.sort(found), np.sort(sums), rtol=1e-6, atol=3e-6)


@pytest.mark.parametrize("largest", [0, 50, 2**40, 2**52, 2**62 - 1])
def test_equal_keys_stay_in_their_order(largest):
    generator = torch.Generator().manual_seed(0)
    some = torch.randint(0, largest + 1, (700,), generator=generator)
    keys = torch.cat([some, some[:500], some.new_tensor([largest])])
    for found, expected in zip(_stable_sort(keys), torch.sort(keys, stable=True), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_matrices(dimensions):
    lattice = PermutohedralLattice(features(dimensions, 40))
    count = len(lattice.vertex_keys)
    splat, read = matrix(lattice.splat, 40), matrix(lattice.slice, count)
    np.testing.assert_array_equal(splat, read.T)
    np.testing.assert_allclose(read.sum(1), 1, atol=1e-6)
    assert read.min() >= -1e-6
    assert ((read != 0).sum(1) <= dimensions + 1).all()
    assert len(lattice.blurs) == dimensions + 1
    for blur in lattice.blurs:
        dense = matrix(blur, count)
        np.testing.assert_array_equal(dense, dense.T)
        np.testing.assert_array_equal(dense.diagonal(), 1)
        assert set(np.unique(dense)) <= {0.0, 0.5, 1.0}


def test_is_a_gaussian_of_unit_variance():
    """Where the lattice is densely filled, a unit impulse spreads like exp(-r^2 / 2)."""
    line = torch.linspace(-6, 6, 81)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij")).flatten(1)
    impulse = torch.zeros((81 * 81, 1))
    impulse[40 * 81 + 40] = 1
    response = PermutohedralLattice(grid).filter(impulse)[:, 0].double()
    response /= response.sum()
    variance = (response * grid.double() ** 2).sum(1)
    np.testing.assert_allclose(variance, 1, atol=0.15)
    exact = torch.exp(-grid.double().square().sum(0) / 2)
    assert (response - exact / exact.sum()).abs().max() < 0.25 * response.max()


def test_one_point_and_equal_points():
    one = PermutohedralLattice(torch.zeros((5, 1))).filter(torch.tensor([[2.0, 4.0]]))
    assert one[0, 1] == 2 * one[0, 0] > 0
    equal = PermutohedralLattice(torch.full((2, 7), 0.3)).filter(torch.ones((7, 1)))
    np.testing.assert_allclose(equal, float(equal[0]) * np.ones((7, 1)), rtol=1e-6)
    alone = PermutohedralLattice(torch.full((2, 1), 0.3)).filter(torch.ones((1, 1)))
    np.testing.assert_allclose(equal, 7 * float(alone), rtol=1e-6)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(5), "features must be"),
        (torch.zeros((0, 5)), "features must be"),
        (torch.zeros((2, 0)), "features must be"),
        (torch.tensor([[0.0, float("nan")]]), "finite"),
        (torch.tensor([[0.0, 1e6]] * 5), "too widely"),
    ],
)
def test_refuses(bad, message):
    with pytest.raises(ValueError, match=message):
        PermutohedralLattice(bad)
