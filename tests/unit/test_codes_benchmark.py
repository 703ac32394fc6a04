"""The pieces of `benchmarks.codes` that could be wrong: encoders, codebooks, products."""

from itertools import product

import numpy as np
import pytest

from benchmarks.codes_lattice import Lattice, e8p, nearest, roots
from benchmarks.codes_rounding import Rounder, factors, relative_error
from benchmarks.codes_speed import GROUP, Inputs, Kernel, all_kernels, multiply
from benchmarks.codes_trellis import Trellis, learned, mixed
from engine.kernels.step_products import PERMUTING
from engine.layout import TILE_ROWS

RANDOM = np.random.default_rng(7)


def hessian(size: int) -> np.ndarray:
    x = RANDOM.standard_normal((3 * size, size)) @ RANDOM.standard_normal((size, size))
    return x.T @ x / len(x)


def windows_of(stream: tuple[int, ...], window: int, fresh: int) -> list[int]:
    """Every window of a ring of bits, the first bit the lowest."""
    ring = stream * 2 * (1 + window // len(stream))
    starts = range(0, len(stream), fresh)
    return [sum(bit << n for n, bit in enumerate(ring[at : at + window])) for at in starts]


def test_the_encoder_finds_the_best_of_all_rings() -> None:
    # Where the first look finds how the ring begins, which is a matter of luck; so it is given.
    code = Trellis(3, 1, RANDOM.standard_normal((8, 1)).astype(np.float32))
    targets = RANDOM.standard_normal((20, 8)).astype(np.float32)
    rings = [windows_of(stream, 3, 1) for stream in product((0, 1), repeat=8)]
    levels = code.table[np.array(rings), 0]  # [256, 8]
    pivots = RANDOM.random(8).astype(np.float32) + 0.1
    values, windows = code.encode(targets, np.eye(8), pivots, np.ones(20, np.float32))
    costs = (np.square(targets[:, None] - levels) * pivots).sum(-1)  # [20, 256]
    mine = (np.square(targets - values) * pivots).sum(-1)
    assert [list(row) in rings for row in windows] == [True] * 20
    np.testing.assert_array_equal(values, code.table[windows, 0])
    begins = np.array([ring[0] & 3 for ring in rings])
    same = begins[None] == (windows[:, :1] & 3)
    np.testing.assert_allclose(mine, np.where(same, costs, np.inf).min(1), rtol=1e-5)
    assert np.mean(mine <= costs.min(1) * 1.00001) > 0.5


@pytest.mark.parametrize("weights", [1, 2])
def test_an_encoder_with_couplings_reports_what_it_minimises(weights: int) -> None:
    code = learned(4, 2, weights)
    couplings, pivots = factors(hessian(16))
    targets = RANDOM.standard_normal((32, 16)).astype(np.float32)
    scales = np.full(32, 0.9, np.float32)
    aware, _ = code.encode(targets, couplings, pivots, scales)
    blind, _ = code.encode(targets, np.eye(16), np.ones(16), scales)

    def cost(values: np.ndarray) -> float:
        return float((np.square((targets - values) @ couplings) @ pivots).sum())

    assert cost(aware) < 0.9 * cost(blind)


def test_couplings_are_a_factorization() -> None:
    matrix = hessian(12)
    couplings, pivots = factors(matrix)
    np.testing.assert_allclose(couplings * pivots @ couplings.T, matrix, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(np.tril(couplings, -1), 0)
    np.testing.assert_allclose(np.diag(couplings), 1)


def test_e8p_is_of_the_lattice() -> None:
    points = e8p()
    assert len(np.unique(points, axis=0)) == 1 << 16
    side = np.where(np.arange(1 << 16) >> 15, -0.25, 0.25)[:, None]
    at_home = points - side
    assert (np.mod(at_home, 1) == 0.5).all()
    assert (np.mod(at_home.sum(1), 2) == 0).all()
    lengths = np.square(roots()).sum(1)
    assert sorted(set(lengths)) == [0, 2, 4]
    assert (lengths == 2).sum() == 240


def test_the_nearest_point_is_that_of_brute_force() -> None:
    wanted = RANDOM.standard_normal((50, 8)).astype(np.float32)
    metric = np.linalg.cholesky(hessian(8)).astype(np.float32)
    book = e8p()[::7]
    apart = (wanted[:, None].astype(float) - book) @ metric  # [50, N, 8]
    found = nearest(wanted, book, metric)
    best = np.square(apart).sum(-1).min(1)
    mine = np.square((wanted - book[found]) @ metric.astype(float)).sum(-1)
    np.testing.assert_allclose(mine, best, rtol=1e-4)


def test_feedback_and_sweeps_lower_the_error() -> None:
    weights = RANDOM.standard_normal((24, 64)).astype(np.float32)
    matrix = hessian(64).astype(np.float32)
    for code in (learned(4, 2), Lattice((roots(),))):
        rounder = Rounder(code, 1.0)
        alone = rounder.groups(
            weights.reshape(-1, 32), np.eye(32, dtype=np.float32), np.ones(32, np.float32)
        )[0].reshape(weights.shape)
        errors = [relative_error(weights, alone, matrix)]
        errors += [
            relative_error(weights, rounder.matrix(weights, matrix, 32, sweeps), matrix)
            for sweeps in (0, 2)
        ]
        assert errors[0] > 1.2 * errors[1] > 1.2 * errors[2]


def dense(kernel: Kernel, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The matrix [O, I] that a kernel is meant to multiply with."""
    tiles, words, _ = codes.shape
    rows = codes.transpose(0, 2, 1).reshape(tiles * TILE_ROWS, words)
    scale = scales.astype(float).transpose(0, 2, 1).reshape(tiles * TILE_ROWS, -1)
    bits = (rows[..., None] >> np.arange(32, dtype=np.uint32) & 1).astype(np.int64)
    rings = bits.reshape(len(rows), -1, 2 * GROUP)  # [O, G, 256]
    if kernel.eights:
        points = e8p()[(rings.reshape(len(rows), -1, 16) << np.arange(16)).sum(-1)]
        levels = points.reshape(len(rows), -1, GROUP)
    else:
        doubled = np.concatenate([rings, rings], axis=-1)
        width = int(kernel.name.split("window ")[1].split(",")[0]) if "window" in kernel.name else 2
        at = 2 * np.arange(GROUP)[:, None] + np.arange(width)
        windows = (doubled[..., at] << np.arange(width)).sum(-1)
        levels = windows - 1.5
        if kernel.integer and width > 2:
            levels = (kernel.table[windows] - 128.0) / 40
        elif "1MAD" in kernel.name:
            levels = mixed(2).table[windows, 0]
        elif width > 2:
            levels = learned(width, 2).table[windows, 0]
    return (levels * scale[..., None]).reshape(len(rows), -1)


@pytest.mark.skipif(not PERMUTING, reason="these kernels are for AVX-512")
def test_products_are_those_of_the_decoded_matrix() -> None:
    columns, tiles = 1024, 2
    # Some more words than a tile has: the next tile's are asked for.
    codes = RANDOM.integers(0, 1 << 32, (tiles, columns // 16, TILE_ROWS), np.uint32)
    scales = RANDOM.random((tiles, columns // GROUP, TILE_ROWS)).astype(np.float16)
    x = RANDOM.standard_normal(columns).astype(np.float32)
    names = ("trellis, window 8", "trellis, window 5", "E8P")  # each takes a second to compile
    for kernel in [one for one in all_kernels() if one.name.startswith(names)]:
        out = np.empty(tiles * TILE_ROWS, np.float32)
        given = Inputs.of(kernel, x)
        multiply(kernel, given, codes, scales, columns, out)
        exact = x.astype(float)
        if kernel.integer:
            steps = given.tables.reshape(-1, given.stride)[:, :32].copy().view(np.float32)
            exact = given.x.reshape(-1, GROUP) * (steps[:, ::2].reshape(-1, 1) / kernel.factor)
        wanted = dense(kernel, codes, scales) @ exact.ravel()
        np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=2e-3, err_msg=kernel.name)
