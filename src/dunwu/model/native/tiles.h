/* Products of float32 matrices in tiles whose sums stay in registers: c = a b, or c += a b.

   `a` may lie transposed, so that no product needs a copy of it; rows of `b` and `c` are contiguous. Each sum runs over the inner
   dimension in order, whatever the tile. */
#ifndef DUNWU_TILES_H
#define DUNWU_TILES_H

#include "vectors.h"

#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#if defined(__AVX512F__)
#define TILE_ROWS 14 /* times two vectors, beside two of `b` and what is broadcast: 32 vector registers */
#else
#define TILE_ROWS 6
#endif
#define TILE_COLUMNS (2 * W)

/* R rows and N vectors of columns; `row` and `column` are the strides of a. */
INLINE void tile(const int R, const int N, int64_t inner, const float *a, int64_t row, int64_t column, const float *b, int64_t ldb,
                 float *c, int64_t ldc, int add) {
    vf sums[TILE_ROWS][2];
    EACH(r, R) EACH(n, N) sums[r][n] = (vf){0};
    EACH(r, R) __builtin_prefetch(c + r * ldc, 1), __builtin_prefetch(c + r * ldc + N * W - 1, 1);
    for (int64_t k = 0; k < inner; k++) {
        vf bs[2];
        EACH(n, N) bs[n] = load(b + n * W);
        EACH(r, R) {
            const vf as = all(a[r * row]);
            EACH(n, N) sums[r][n] += as * bs[n];
        }
        a += column, b += ldb;
    }
    if (add) EACH(r, R) EACH(n, N) sums[r][n] += load(c + r * ldc + n * W);
    EACH(r, R) EACH(n, N) store(c + r * ldc + n * W, sums[r][n]);
}

#define OF_ROWS(R, N, ROW, COLUMN) \
    case R: tile(R, N, inner, a, ROW, COLUMN, b, ldb, c, ldc, add); break;
#if TILE_ROWS == 14
#define OF_MORE_ROWS(N, ROW, COLUMN) \
    OF_ROWS(7, N, ROW, COLUMN) OF_ROWS(8, N, ROW, COLUMN) OF_ROWS(9, N, ROW, COLUMN) OF_ROWS(10, N, ROW, COLUMN) \
    OF_ROWS(11, N, ROW, COLUMN) OF_ROWS(12, N, ROW, COLUMN) OF_ROWS(13, N, ROW, COLUMN) OF_ROWS(14, N, ROW, COLUMN)
#else
#define OF_MORE_ROWS(N, ROW, COLUMN)
#endif
#define TILE_FUNCTION(name, N, ROW, COLUMN) \
    static void name(int rows, int64_t inner, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc, int add) { \
        switch (rows) { \
            OF_ROWS(1, N, ROW, COLUMN) OF_ROWS(2, N, ROW, COLUMN) OF_ROWS(3, N, ROW, COLUMN) OF_ROWS(4, N, ROW, COLUMN) \
            OF_ROWS(5, N, ROW, COLUMN) OF_ROWS(6, N, ROW, COLUMN) OF_MORE_ROWS(N, ROW, COLUMN) \
        } \
    }

TILE_FUNCTION(wide_tile, 2, lda, 1)
TILE_FUNCTION(narrow_tile, 1, lda, 1)
TILE_FUNCTION(wide_tile_transposed, 2, 1, lda)
TILE_FUNCTION(narrow_tile_transposed, 1, 1, lda)

typedef void (*Tile)(int, int64_t, const float *, int64_t, const float *, int64_t, float *, int64_t, int);

#define INNER 384     /* at a time, so that a tile's rows of `a` stay in the nearest cache while `b` passes */
#define ALL_INNER 896 /* up to so many in one go: then no sum is stored and fetched again */

/* c [rows, columns] = a b, or added to it. a [rows, inner], or with `transposed` [inner, rows]; b in panels of TILE_COLUMNS columns that
   begin `panel` apart, with rows `ldb` apart: a matrix as it lies has panels TILE_COLUMNS apart, a packed one inner * TILE_COLUMNS.
   `columns` is a multiple of W. */
static void multiply_panels(int64_t rows, int64_t columns, int64_t inner, const float *a, int64_t lda, int transposed, const float *b,
                            int64_t ldb, int64_t panel, float *c, int64_t ldc, int add) {
    const Tile wide = transposed ? wide_tile_transposed : wide_tile, narrow = transposed ? narrow_tile_transposed : narrow_tile;
    const int64_t pieces = (rows + TILE_ROWS - 1) / TILE_ROWS, parts = inner <= ALL_INNER ? 1 : (inner + INNER - 1) / INNER;
    for (int64_t part = 0; part < parts; part++) {
        const int64_t k = part * inner / parts, count = (part + 1) * inner / parts - k;
        for (int64_t piece = 0; piece < pieces; piece++) {
            const int64_t i = piece * rows / pieces, end = (piece + 1) * rows / pieces;
            for (int64_t j = 0; j < columns; j += TILE_COLUMNS)
                (columns - j < TILE_COLUMNS ? narrow : wide)((int)(end - i), count, a + (transposed ? i + k * lda : i * lda + k), lda,
                                                             b + j / TILE_COLUMNS * panel + k * ldb, ldb, c + i * ldc + j, ldc,
                                                             add || part);
        }
    }
}

static void multiply(int64_t rows, int64_t columns, int64_t inner, const float *a, int64_t lda, int transposed, const float *b,
                     int64_t ldb, float *c, int64_t ldc, int add) {
    multiply_panels(rows, columns, inner, a, lda, transposed, b, ldb, TILE_COLUMNS, c, ldc, add);
}

/* W rows of W numbers, transposed. */
INLINE void transpose_square(const float *from, int64_t stride, float *to, int64_t to_stride) {
#if defined(__GNUC__) && !defined(__clang__)
    vf rows[W];
    EACH(i, W) rows[i] = load(from + i * stride);
    _Pragma("GCC unroll 4") for (int d = 1; d < W; d *= 2) {
        vi first, second;
        EACH(l, W) first[l] = l & d ? W + l - d : l, second[l] = l & d ? W + l : l + d;
        EACH(i, W) if (!(i & d)) {
            const vf a = rows[i], b = rows[i + d];
            rows[i] = __builtin_shuffle(a, b, first);
            rows[i + d] = __builtin_shuffle(a, b, second);
        }
    }
    EACH(i, W) store(to + i * to_stride, rows[i]);
#else
    for (int i = 0; i < W; i++)
        for (int j = 0; j < W; j++) to[j * to_stride + i] = from[i * stride + j];
#endif
}

/* to [columns, rows up to the next W] from [rows, columns]; zeros behind the last row. */
static void transpose(const float *from, int64_t stride, int64_t rows, int64_t columns, float *to, int64_t to_stride) {
    for (int64_t i = 0; i < rows; i += W) {
        int64_t j = 0;
        if (i + W <= rows)
            for (; j + W <= columns; j += W) transpose_square(from + i * stride + j, stride, to + j * to_stride + i, to_stride);
        for (; j < columns; j++)
            for (int64_t r = i; r < i + W; r++) to[j * to_stride + r] = r < rows ? from[r * stride + j] : 0.0f;
    }
}

#endif
