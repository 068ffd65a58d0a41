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
#define STRIP 12  /* outputs whose weights stay in the nearest cache while a few rows pass; a multiple of each N */
#define STRIPS 48 /* and in the second, while many do */
#define STRETCH 768
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
INLINE void over_group(const int kind, const int N, const int R, const int fresh, const Matrix *m, int64_t o, const float *x,
                       int64_t ldx, int64_t start, int64_t end, int64_t g, vf *sums) {
    const int scaled = kind != FLOAT32 && m->group < m->inputs;
    vf scales[MOST_N];
    if (scaled) EACH(n, N) scales[n] = all(m->scales[(o + n) * groups_of(m) + g]);
    for (int64_t k = start; k + W <= end; k += W) {
        vf first[MOST_N], second[MOST_N];
        EACH(n, N) weights_at(kind, m, o + n, k, &first[n], &second[n]);
        if (R > 1 && fresh) EACH(n, N) fetch(kind, m, o + N + n, k);
        if (scaled) EACH(n, N) first[n] *= scales[n];
        if (scaled && kind == INT4) EACH(n, N) second[n] *= scales[n];
        EACH(r, R) {
            vf xs = load(x + r * ldx + k);
            if (N > 1) KEEP(xs);
            EACH(n, N) sums[r * N + n] += first[n] * xs;
            if (kind == INT4) {
                vf later = load(x + r * ldx + k + 16);
                if (N > 1) KEEP(later);
                EACH(n, N) sums[r * N + n] += second[n] * later;
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

/* Inputs whose products are summed before the sum joins that of those before: as many as eight rows of them leave room for in
   the nearest cache. It depends on the matrix alone, and so does the order in which an output is summed. */
INLINE int64_t stretch_of(const Matrix *m) {
    if (m->group < m->inputs || m->inputs <= STRETCH) return m->inputs;
    const int64_t count = (m->inputs + STRETCH - 1) / STRETCH;
    return ((m->inputs + count - 1) / count + 63) / 64 * 64;
}

/* Sums `k` to `end` of N outputs of R rows; the first stretch sets them, the others add to them. */
INLINE void tile(const int kind, const int N, const int R, const Matrix *m, int64_t o, int64_t k, int64_t end, const int fresh,
                 const float *x, int64_t ldx, float *out, int64_t ldo) {
    vf sums[MOST_R * MOST_N];
    float found[MOST_R * MOST_N];
    EACH(i, R * N) sums[i] = (vf){0};
    if (m->group >= m->inputs) over_group(kind, N, R, fresh, m, o, x, ldx, k, end, 0, sums);
    else
        for (int64_t g = 0, start = 0; start < m->inputs; g++, start += m->group) {
            const int64_t last = start + m->group < m->inputs ? start + m->group : m->inputs;
            over_group(kind, N, R, fresh, m, o, x, ldx, start, last, g, sums);
        }
    sum_each(R * N, sums, found);
    const int late = kind != FLOAT32 && m->group >= m->inputs, rest = m->inputs % W || m->group % W;
    EACH(r, R) EACH(n, N) {
        float s = found[r * N + n];
        if (rest && k == 0) s += rest_of(kind, m, o + n, x + r * ldx);
        if (late) {
            s *= m->scales[o + n];
            ROUNDED(s);
        }
        float *to = out + r * ldo + n;
        *to = k ? *to + s : s;
    }
}

/* Outputs `start` to `end` of R rows, all stretches of an output after one another. */
#define WITH_ROWS(R, N)                                                                                                \
    case R:                                                                                                            \
        for (; o + N <= end; o += N)                                                                                   \
            for (int64_t at = k; at < last; at += stretch)                                                             \
                tile(kind, N, R, m, o, at, at + stretch < last ? at + stretch : last, fresh, x, ldx, out + o - start, ldo); \
        for (; o < end; o++)                                                                                           \
            for (int64_t at = k; at < last; at += stretch)                                                             \
                tile(kind, 1, R, m, o, at, at + stretch < last ? at + stretch : last, 0, x, ldx, out + o - start, ldo); \
        break;

/* Outputs `start` to `end` of up to MOST_R rows over the inputs `k` to `last`. `fresh`: the weights come from afar. `any`: rows
   may be as many as they like, not only 1, 2, 4 or 8. */
INLINE void block(const int kind, const int fresh, const int any, const Matrix *m, int64_t start, int64_t end, int64_t k,
                  int64_t last, const float *x, int64_t ldx, int rows, float *out, int64_t ldo) {
    const int64_t stretch = stretch_of(m);
    int64_t o = start;
    if (fresh) switch (rows) {
        WITH_ROWS(1, 1)
        WITH_ROWS(2, FEW_ROWS_N)
        WITH_ROWS(4, FEW_ROWS_N)
    }
    if (any) switch (rows) {
        WITH_ROWS(3, FEW_ROWS_N)
#if MOST_R == 8
        WITH_ROWS(5, 4)
        WITH_ROWS(6, 4)
        WITH_ROWS(7, 3)
    }
    if (rows == 8) switch (rows) {
        WITH_ROWS(8, MANY_ROWS_N)
#endif
    }
}

#define BLOCK(name, kind, fresh, any)                                                                                  \
    static void name(const Matrix *m, int64_t start, int64_t end, int64_t k, int64_t last, const float *x, int64_t ldx, \
                     int rows, float *out, int64_t ldo) {                                                              \
        block(kind, fresh, any, m, start, end, k, last, x, ldx, rows, out, ldo);                                       \
    }
BLOCK(block_float32, FLOAT32, 1, 1)
#if MOST_R == 8
BLOCK(block_float32_near, FLOAT32, 0, 0)
#else
#define block_float32_near block_float32
#endif
BLOCK(block_int8, INT8, 1, 0)
BLOCK(block_int4, INT4, 1, 0)

#define SPAN 64

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
static int wants_rounded(const Matrix *m) { return m->kind == INT8 && m->group >= m->inputs && m->inputs % SPAN == 0; }

/* A span with a number that is not finite gets a scale that is not a number. */
static void round_rows(Rows *rows, int64_t from, int64_t to, int64_t inputs) {
    for (int64_t r = from; r < to; r++)
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
INLINE void rounded_tile(const int N, const int R, const int fresh, const Matrix *m, int64_t o, const int16_t *x, const float *scales, float *out,
                         int64_t ldo) {
    vf sums[MOST_R * MOST_N];
    float found[MOST_R * MOST_N];
    EACH(i, R * N) sums[i] = (vf){0};
    for (int64_t k = 0; k < m->inputs; k += SPAN) {
        __m512i left[MOST_N], right[MOST_N];
        EACH(n, N) {
            const int8_t *at = (const int8_t *)m->weights + (o + n) * m->inputs + k;
            left[n] = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)at));
            right[n] = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)(at + SPAN / 2)));
            if (R > 1 && fresh) fetch(INT8, m, o + N + n, k);
        }
        EACH(r, R) {
            const int16_t *xs = x + r * m->inputs + k;
            __m512i first = _mm512_loadu_si512(xs), second = _mm512_loadu_si512(xs + SPAN / 2);
            __m512 scale = _mm512_set1_ps(scales[(r * m->inputs + k) / SPAN]);
            if (N > 1) {
                KEEP(first);
                KEEP(second);
                KEEP(scale);
            }
            EACH(n, N) {
                __m512i whole = _mm512_dpwssd_epi32(_mm512_setzero_si512(), left[n], first);
                whole = _mm512_dpwssd_epi32(whole, right[n], second);
                sums[r * N + n] = (vf)_mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), scale, (__m512)sums[r * N + n]);
            }
        }
    }
    sum_each(R * N, sums, found);
    EACH(r, R) EACH(n, N) out[r * ldo + n] = found[r * N + n] * m->scales[o + n];
}

#define ROUNDED_ROWS(R, N)                                                                                            \
    case R:                                                                                                            \
        for (; o + N <= end; o += N) rounded_tile(N, R, fresh, m, o, x, scales, out + o - start, ldo);                 \
        for (; o < end; o++) rounded_tile(1, R, 0, m, o, x, scales, out + o - start, ldo);                             \
        break;

INLINE void rounded(const int fresh, const Matrix *m, int64_t start, int64_t end, const int16_t *x, const float *scales, int rows,
                    float *out, int64_t ldo) {
    int64_t o = start;
    switch (rows) {
        ROUNDED_ROWS(1, 1)
        ROUNDED_ROWS(2, 4)
        ROUNDED_ROWS(3, 4)
        ROUNDED_ROWS(4, 4)
        ROUNDED_ROWS(5, 4)
        ROUNDED_ROWS(6, 4)
        ROUNDED_ROWS(7, 3)
        ROUNDED_ROWS(8, 3)
    }
}

static void block_rounded(const Matrix *m, int64_t start, int64_t end, const int16_t *x, const float *scales, int rows, float *out,
                          int64_t ldo, int fresh) {
    if (fresh) rounded(1, m, start, end, x, scales, rows, out, ldo);
    else rounded(0, m, start, end, x, scales, rows, out, ldo);
}
#else
static int wants_rounded(const Matrix *m) { return (void)m, 0; }
static void round_rows(Rows *rows, int64_t from, int64_t to, int64_t inputs) { (void)rows, (void)from, (void)to, (void)inputs; }
static void block_rounded(const Matrix *m, int64_t start, int64_t end, const int16_t *x, const float *scales, int rows, float *out,
                          int64_t ldo, int fresh) {
    (void)m, (void)start, (void)end, (void)x, (void)scales, (void)rows, (void)out, (void)ldo, (void)fresh;
}
#endif

/* Room for the rounded form of `count` rows; without it they are used as they are. */
static void make_room(Rows *rows, int64_t count, int64_t inputs) {
    const size_t spans = (size_t)((count * inputs + SPAN - 1) / SPAN), bytes = spans * (SPAN * sizeof(int16_t) + sizeof(float));
    rows->numbers = aligned_alloc(64, (bytes + 63) / 64 * 64);
    rows->scales = rows->numbers ? (float *)(rows->numbers + spans * SPAN) : 0;
}

/* Rows for products with these matrices, which have as many inputs each; room as `make_room` gave. Rows `from` to `to` are
   rounded here, where any matrix wants it. */
static Rows rows_for(const Matrix *matrices, int count, const float *x, int64_t ld, int64_t from, int64_t to, const Rows *room) {
    Rows made = {.x = x, .ld = ld};
    int wanted = 0;
    for (int i = 0; i < count; i++) wanted |= matrices[i].outputs && wants_rounded(matrices + i);
    if (!wanted || !room->numbers) return made;
    made.numbers = room->numbers, made.scales = room->scales;
    round_rows(&made, from, to, ld);
    return made;
}

INLINE int64_t row_bytes(const Matrix *m) {
    return m->kind == FLOAT32 ? 4 * m->inputs : m->kind == INT8 ? m->inputs : m->inputs / 2;
}

/* Outputs `start` to `end` of all rows: out [rows, ldo], bias added. A row is computed alike whatever rows are beside it: each
   output is summed in an order that the matrix alone decides.

   Few rows read the weights once, straight on. More: MOST_R rows at a time over one stretch of inputs, so that these are in the
   nearest cache and the weights of this call in the second. */
static void product(const Matrix *m, int64_t start, int64_t end, const Rows *x, int64_t first, int64_t rows, float *out, int64_t ldo) {
    const int rounded = x->numbers && wants_rounded(m), any = rounded || m->kind == FLOAT32;
    const int64_t stretch = rounded || rows <= MOST_R / 2 || m->kind == INT4 ? m->inputs : stretch_of(m);
    const int64_t strip = stretch == m->inputs && rows <= MOST_R ? end - start : rows <= 2 * MOST_R ? STRIP : STRIPS;
    for (int64_t o = start; o < end; o += strip) {
        const int64_t stop = o + strip < end ? o + strip : end;
        for (int64_t k = 0; k < m->inputs; k += stretch) {
            const int64_t last = k + stretch < m->inputs ? k + stretch : m->inputs;
            for (int64_t done = 0, now; done < rows; done += now) {
                now = rows - done < MOST_R ? rows - done : MOST_R;
                while (!any && now & (now - 1)) now &= now - 1;
                const int64_t row = first + done;
                const float *from = x->x + row * x->ld;
                float *to = out + done * ldo + (o - start);
                if (rounded)
                    block_rounded(m, o, stop, x->numbers + row * m->inputs, x->scales + row * m->inputs / SPAN, (int)now, to, ldo, done == 0);
                else if (m->kind == FLOAT32 && (done == 0 || now < MOST_R)) block_float32(m, o, stop, k, last, from, x->ld, (int)now, to, ldo);
                else if (m->kind == FLOAT32) block_float32_near(m, o, stop, k, last, from, x->ld, (int)now, to, ldo);
                else if (m->kind == INT8) block_int8(m, o, stop, k, last, from, x->ld, (int)now, to, ldo);
                else block_int4(m, o, stop, k, last, from, x->ld, (int)now, to, ldo);
            }
        }
    }
    if (m->bias)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t o = start; o < end; o++) out[r * ldo + o - start] += m->bias[o];
}

#endif
