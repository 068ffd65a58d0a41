/* Products of a few rows with a matrix that is read once: float32, int8, or groups of 4 bits, each output a dot product.

   A tile is N outputs of R rows whose W * N * R sums stay in registers. One row alone reads the matrix straight on, which the
   processor foresees best. Weights of few bits become floats in registers, and nothing but the weights is rounded; except that
   int8 with one scale a row, on a processor with AVX512 VNNI, is multiplied in whole numbers by rows rounded to 16 bits. */
#ifndef DUNWU_PRODUCTS_H
#define DUNWU_PRODUCTS_H

#include <stdlib.h>

#include "vectors.h"

#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#define MOST_N 4
#define STRIP 12 /* outputs whose weights stay in the nearest cache while all rows pass; a multiple of each N */
#define CACHED_ROWS 64
#if defined(__AVX512F__) || defined(__aarch64__)
#define MOST_R 8 /* 32 vector registers */
#define FEW_ROWS_N 4
#define MANY_ROWS_N 3
#else
#define MOST_R 4
#define FEW_ROWS_N 3
#define MANY_ROWS_N 3
#endif

enum { FLOAT32, INT8, INT4 };

/* `outputs` rows of `inputs` numbers. `group` inputs share a scale: `scales` [outputs, ceil(inputs / group)].
   INT4: 32 inputs lie in 16 bytes, input i in the low half of byte i and input i + 16 in its high half. */
typedef struct {
    const void *weights;
    const float *scales, *bias;
    int64_t outputs, inputs, group, kind;
} Matrix;

/* What a product reads: x [rows, ld]; and, where `numbers` is not null, the same [rows, inputs] in whole numbers of 16 bits with a
   scale for each SPAN of them. */
typedef struct {
    const float *x;
    int64_t ld;
    int16_t *numbers;
    float *scales;
} Rows;

INLINE int64_t groups_of(const Matrix *m) { return (m->inputs + m->group - 1) / m->group; }

/* W weights of output `o` from input `k` on; of INT4 that many from k + 16 on as well. */
INLINE void weights_at(const int kind, const Matrix *m, int64_t o, int64_t k, vf *first, vf *second) {
    if (kind == FLOAT32) *first = load((const float *)m->weights + o * m->inputs + k);
    else if (kind == INT8) *first = load_bytes((const int8_t *)m->weights + o * m->inputs + k);
    else load_nibbles((const uint8_t *)m->weights + (o * m->inputs + (k & ~31)) / 2 + (k & 15), first, second);
}

/* Bring what the next tile needs into the second cache: asked for nearer, it comes no sooner than without asking. */
INLINE void fetch(const int kind, const Matrix *m, int64_t o, int64_t k) {
    const int64_t at = o * m->inputs + k;
    if (kind == FLOAT32) __builtin_prefetch((const float *)m->weights + at, 0, 2);
    else if (k % 64 == 0) __builtin_prefetch((const int8_t *)m->weights + (kind == INT4 ? at / 2 : at), 0, 2);
}

INLINE float weight_at(const int kind, const Matrix *m, int64_t o, int64_t k) {
    if (kind == FLOAT32) return ((const float *)m->weights)[o * m->inputs + k];
    return ((const int8_t *)m->weights)[o * m->inputs + k];
}

/* Outputs `o` to `o + N` of R rows over the inputs `start` to `end`, added to `sums` times the group's scale. */
INLINE void over_group(const int kind, const int N, const int R, const Matrix *m, int64_t o, const float *x, int64_t ldx,
                       int64_t start, int64_t end, int64_t g, vf sums[MOST_R][MOST_N]) {
    const int scaled = kind != FLOAT32 && m->group < m->inputs;
    vf scales[MOST_N];
    if (scaled) EACH(n, N) scales[n] = all(m->scales[(o + n) * groups_of(m) + g]);
    for (int64_t k = start; k + W <= end; k += W) {
        vf first[MOST_N], second[MOST_N];
        EACH(n, N) weights_at(kind, m, o + n, k, &first[n], &second[n]);
        if (R > 1) EACH(n, N) fetch(kind, m, o + N + n, k);
        if (scaled) EACH(n, N) first[n] *= scales[n];
        if (scaled && kind == INT4) EACH(n, N) second[n] *= scales[n];
        EACH(r, R) {
            vf xs = load(x + r * ldx + k);
            EACH(n, N) sums[r][n] += first[n] * xs;
            if (kind == INT4) {
                vf later = load(x + r * ldx + k + 16);
                EACH(n, N) sums[r][n] += second[n] * later;
            }
        }
        if (kind == INT4 && (k & 15) + W == 16) k += 16;
    }
}

/* What does not fill a vector; INT4 has none of it. */
static __attribute__((noinline)) float rest_of(const int kind, const Matrix *m, int64_t o, const float *x) {
    float s = 0;
    if (kind == INT4) return s;
    for (int64_t g = 0; g < groups_of(m); g++) {
        int64_t start = g * m->group, end = start + m->group < m->inputs ? start + m->group : m->inputs;
        float part = 0;
        for (int64_t k = start + (end - start) / W * W; k < end; k++) part += weight_at(kind, m, o, k) * x[k];
        s += m->group < m->inputs ? part * m->scales[o * groups_of(m) + g] : part;
    }
    return s;
}

INLINE void tile(const int kind, const int N, const int R, const Matrix *m, int64_t o, const float *x, int64_t ldx,
                 float *out, int64_t ldo) {
    vf sums[MOST_R][MOST_N];
    EACH(r, R) EACH(n, N) sums[r][n] = (vf){0};
    for (int64_t g = 0, start = 0; start < m->inputs; g++, start += m->group) {
        int64_t end = start + m->group < m->inputs ? start + m->group : m->inputs;
        over_group(kind, N, R, m, o, x, ldx, start, end, g, sums);
    }
    const int late = kind != FLOAT32 && m->group >= m->inputs;
    EACH(r, R) EACH(n, N) {
        float s = sum(sums[r][n]);
        if (m->inputs % W || m->group % W) s += rest_of(kind, m, o + n, x + r * ldx);
        out[r * ldo + n] = late ? s * m->scales[o + n] : s;
    }
}

/* One output of one row: four sums, for each waits for the one before. */
INLINE float dot(const int kind, const Matrix *m, int64_t o, const float *x) {
    const int64_t step = 4 * W;
    if (kind == INT4 || (kind == INT8 && m->group < m->inputs)) {
        float s;
        tile(kind, 1, 1, m, o, x, 0, &s, 0);
        return s;
    }
    vf sums[4] = {{0}, {0}, {0}, {0}}, none;
    int64_t k = 0;
    for (; k + step <= m->inputs; k += step) EACH(i, 4) {
        vf ws;
        weights_at(kind, m, o, k + i * W, &ws, &none);
        sums[i] += ws * load(x + k + i * W);
    }
    for (; k + W <= m->inputs; k += W) {
        vf ws;
        weights_at(kind, m, o, k, &ws, &none);
        sums[0] += ws * load(x + k);
    }
    float s = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; k < m->inputs; k++) s += weight_at(kind, m, o, k) * x[k];
    return kind == INT8 ? s * m->scales[o] : s;
}

#define WITH_ROWS(R, N)                                                                                               \
    case R:                                                                                                            \
        for (; o + N <= end; o += N) tile(kind, N, R, m, o, x, ldx, out + o - start, ldo);                             \
        for (; o < end; o++) tile(kind, 1, R, m, o, x, ldx, out + o - start, ldo);                                     \
        break;

/* Outputs `start` to `end` of 1, 2, 4 or 8 rows. */
INLINE void block(const int kind, const Matrix *m, int64_t start, int64_t end, const float *x, int64_t ldx, int rows,
                  float *out, int64_t ldo) {
    int64_t o = start;
    switch (rows) {
    case 1:
        for (; o < end; o++) out[o - start] = dot(kind, m, o, x);
        break;
        WITH_ROWS(2, FEW_ROWS_N)
        WITH_ROWS(4, FEW_ROWS_N)
#if MOST_R == 8
        WITH_ROWS(8, MANY_ROWS_N)
#endif
    }
}

static void block_float32(const Matrix *m, int64_t start, int64_t end, const float *x, int64_t ldx, int rows, float *out, int64_t ldo) {
    block(FLOAT32, m, start, end, x, ldx, rows, out, ldo);
}

static void block_int8(const Matrix *m, int64_t start, int64_t end, const float *x, int64_t ldx, int rows, float *out, int64_t ldo) {
    block(INT8, m, start, end, x, ldx, rows, out, ldo);
}

static void block_int4(const Matrix *m, int64_t start, int64_t end, const float *x, int64_t ldx, int rows, float *out, int64_t ldo) {
    block(INT4, m, start, end, x, ldx, rows, out, ldo);
}

#define SPAN 64

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
static int wants_rounded(const Matrix *m) { return m->kind == INT8 && m->group >= m->inputs && m->inputs % SPAN == 0; }

/* A span with a number that is not finite gets a scale that is not a number. */
static void round_rows(Rows *rows, int count, int64_t inputs) {
    for (int64_t r = 0; r < count; r++)
        for (int64_t k = 0; k < inputs; k += SPAN) {
            const float *x = rows->x + r * rows->ld + k;
            __m512 most = _mm512_setzero_ps(), nothing = most;
            EACH(i, SPAN / W) {
                most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(x + i * W)));
                nothing = _mm512_fmadd_ps(_mm512_loadu_ps(x + i * W), _mm512_setzero_ps(), nothing);
            }
            float greatest = _mm512_reduce_max_ps(most), inverse = greatest > 1e-30f ? 32767.0f / greatest : 0.0f;
            rows->scales[(r * inputs + k) / SPAN] = greatest / 32767.0f + _mm512_reduce_add_ps(nothing);
            EACH(i, SPAN / W) {
                __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i * W), _mm512_set1_ps(inverse)));
                _mm256_storeu_si256((void *)(rows->numbers + r * inputs + k + i * W), _mm512_cvtsepi32_epi16(whole));
            }
        }
}

/* As `tile`. A span's sum of products fits 32 bits: 64 * 127 * 32767 < 2^28. Each output is summed alike for any N and R. */
INLINE void rounded_tile(const int N, const int R, const Matrix *m, int64_t o, const int16_t *x, const float *scales, float *out,
                         int64_t ldo) {
    __m512 sums[MOST_R][MOST_N];
    EACH(r, R) EACH(n, N) sums[r][n] = _mm512_setzero_ps();
    for (int64_t k = 0; k < m->inputs; k += SPAN) {
        __m512i left[MOST_N], right[MOST_N];
        EACH(n, N) {
            const int8_t *at = (const int8_t *)m->weights + (o + n) * m->inputs + k;
            left[n] = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)at));
            right[n] = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)(at + SPAN / 2)));
            if (R > 1) fetch(INT8, m, o + N + n, k);
        }
        EACH(r, R) {
            const int16_t *xs = x + r * m->inputs + k;
            const __m512i first = _mm512_loadu_si512(xs), second = _mm512_loadu_si512(xs + SPAN / 2);
            const __m512 scale = _mm512_set1_ps(scales[(r * m->inputs + k) / SPAN]);
            EACH(n, N) {
                __m512i whole = _mm512_dpwssd_epi32(_mm512_setzero_si512(), left[n], first);
                whole = _mm512_dpwssd_epi32(whole, right[n], second);
                sums[r][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), scale, sums[r][n]);
            }
        }
    }
    EACH(r, R) EACH(n, N) out[r * ldo + n] = _mm512_reduce_add_ps(sums[r][n]) * m->scales[o + n];
}

#define ROUNDED_ROWS(R, N)                                                                                            \
    case R:                                                                                                            \
        for (; o + N <= end; o += N) rounded_tile(N, R, m, o, x, scales, out + o - start, ldo);                        \
        for (; o < end; o++) rounded_tile(1, R, m, o, x, scales, out + o - start, ldo);                                \
        break;

static void block_rounded(const Matrix *m, int64_t start, int64_t end, const int16_t *x, const float *scales, int rows, float *out,
                          int64_t ldo) {
    int64_t o = start;
    switch (rows) {
        ROUNDED_ROWS(1, 1)
        ROUNDED_ROWS(2, FEW_ROWS_N)
        ROUNDED_ROWS(4, FEW_ROWS_N)
        ROUNDED_ROWS(8, MANY_ROWS_N)
    }
}
#else
static int wants_rounded(const Matrix *m) { return (void)m, 0; }
static void round_rows(Rows *rows, int count, int64_t inputs) { (void)rows, (void)count, (void)inputs; }
static void block_rounded(const Matrix *m, int64_t start, int64_t end, const int16_t *x, const float *scales, int rows, float *out,
                          int64_t ldo) {
    (void)m, (void)start, (void)end, (void)x, (void)scales, (void)rows, (void)out, (void)ldo;
}
#endif

/* Room for the rounded form of `count` rows; without it they are used as they are. */
static void make_room(Rows *rows, int64_t count, int64_t inputs) {
    const size_t spans = (size_t)((count * inputs + SPAN - 1) / SPAN), bytes = spans * (SPAN * sizeof(int16_t) + sizeof(float));
    rows->numbers = aligned_alloc(64, (bytes + 63) / 64 * 64);
    rows->scales = rows->numbers ? (float *)(rows->numbers + spans * SPAN) : 0;
}

/* Rows for products with these matrices, which have as many inputs each; room as `make_room` gave. */
static Rows rows_for(const Matrix *matrices, int count, const float *x, int64_t ld, int rows, const Rows *room) {
    Rows made = {.x = x, .ld = ld};
    int wanted = 0;
    for (int i = 0; i < count; i++) wanted |= matrices[i].outputs && wants_rounded(matrices + i);
    if (!wanted || !room->numbers) return made;
    made.numbers = room->numbers, made.scales = room->scales;
    round_rows(&made, rows, ld);
    return made;
}

/* Outputs `start` to `end` of all rows: out [rows, ldo], bias added. A few outputs at a time, so that weights read for the first
   rows are still in the nearest cache for the next; and not more rows at a time than the second cache holds. */
static void product(const Matrix *m, int64_t start, int64_t end, const Rows *x, int rows, float *out, int64_t ldo) {
    const int rounded = x->numbers && wants_rounded(m);
    for (int first = 0; first < rows; first += CACHED_ROWS) {
        const int last = first + CACHED_ROWS < rows ? first + CACHED_ROWS : rows;
        const int count = last - first;
        const int64_t strip = count == 1 || count == 2 || count == 4 || count == MOST_R ? end - start : STRIP;
        for (int64_t o = start; o < end; o += strip) {
            int64_t stop = o + strip < end ? o + strip : end;
            for (int done = first, now; done < last; done += now) {
                now = MOST_R;
                while (now > last - done) now /= 2;
                const float *from = x->x + done * x->ld;
                const int64_t at = done * m->inputs, ldx = x->ld;
                float *to = out + done * ldo + (o - start);
                if (rounded) block_rounded(m, o, stop, x->numbers + at, x->scales + at / SPAN, now, to, ldo);
                else if (m->kind == FLOAT32) block_float32(m, o, stop, from, ldx, now, to, ldo);
                else if (m->kind == INT8) block_int8(m, o, stop, from, ldx, now, to, ldo);
                else block_int4(m, o, stop, from, ldx, now, to, ldo);
            }
        }
    }
    if (m->bias)
        for (int r = 0; r < rows; r++)
            for (int64_t o = start; o < end; o++) out[r * ldo + o - start] += m->bias[o];
}

#endif
