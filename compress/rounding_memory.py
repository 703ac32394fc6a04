"""What quantizing a matrix takes beside the matrix. Free of torch."""

CHUNK_ELEMENTS = 1 << 25
"""Errors of this many weights, over all widths, are in memory at once."""

PERMUTED_ROWS = 512
"""Rows of a Hessian that are put in another order at once."""

_KEPT = 1 << 26
"""What allocators and the products' library hold beside that: 35 to 90 MB, whatever the matrix."""

_FLOAT32, _HALF = 4, 2


def quantizer_bytes(
    rows: int, columns: int, widths: int, group_size: int, half_products: bool
) -> int:
    """Peak bytes of "refined" and "gptq" beyond weights [rows, columns], Hessian and codes.

    ``widths``: how many at once; ``half_products``: whether large products run in bfloat16 on the
    device. First the factorization, with a few rows that are being permuted; then the factor beside
    the buffers of a chunk of rows; for the refinement a bfloat16 Hessian takes the factor's place.
    """
    factor = _FLOAT32 * columns * columns
    permuting = 2 * _FLOAT32 * PERMUTED_ROWS * columns
    grids = 2 * _FLOAT32 * widths * rows * columns // group_size
    chunk = _chunk_bytes(rows, columns, widths, group_size, half_products)
    return grids + factor + max(permuting, chunk) + _KEPT


def _chunk_bytes(rows: int, columns: int, widths: int, group_size: int, half_products: bool) -> int:
    """Errors of a chunk, and of one group what they ask of it in the type of the product and three
    times in float32."""
    stacked = widths * min(rows, max(1, CHUNK_ELEMENTS // (columns * widths)))
    product = _HALF if half_products else _FLOAT32
    return stacked * (columns * product + group_size * (product + 3 * _FLOAT32))
