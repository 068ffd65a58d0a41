/* What the kernels are told of a decoder and of a pass, and its norms and activations. */
#ifndef DUNWU_DECODER_H
#define DUNWU_DECODER_H

#include "products.h"
#include "team.h"

enum { NO_NORM, RMS_NORM, LAYER_NORM };
enum { ATTENTION, MLP };
enum { STILL, HALVES, PAIRS };
enum { SILU, GELU, GELU_TANH };

/* RMS_NORM multiplies by offset + weight. */
typedef struct {
    const float *weight, *bias;
    int64_t kind;
    float offset, eps;
} Norm;

typedef struct {
    int64_t kind;
    Norm before, after;
    Matrix first[3], last; /* q, k, v or gate, up; o or down. A plain MLP has no gate: first[0].outputs == 0 */
    /* attention */
    Norm q_norm, k_norm;
    const float *sinks;
    void *keys, *values; /* [kv heads, slots, head_dim], floats or bytes with a scale for each slot of each head */
    float *key_scales, *value_scales;
    int64_t norm_all, turns, table, window; /* window 0: sees all */
    float scale, cap;                       /* cap 0: none */
    /* MLP */
    int64_t activation;
} Part;

typedef struct {
    int64_t rows, width, heads, kv_heads, head_dim, turned; /* turned: half of the channels that rotate */
    int64_t slots, cache_bytes, chunked;                    /* chunked: some text brings several rows */
    float *x;
    const float *cos[2], *sin[2]; /* [positions, turned] */
    const int64_t *place;         /* where each row stands in these; null: at its token's place in its text */
    const int64_t *slot;          /* where the keys and values of each row go */
    const int64_t *seen;          /* how many tokens of its text each row sees, itself included */
    const int64_t *first_run;     /* of each row: where its text's runs begin */
    const int64_t *runs;          /* pairs: a slot, and the one after the last */
    const int64_t *together;      /* pairs: a row, and how many follow one another in its text from there on, at most 16 */
    int64_t together_count;
    float *scratch;      /* dunwu_scratch_floats */
    Share *shares;       /* 3 for each thread of each part */
    const Part *parts;
    int64_t part_count;
    int64_t threads, wide; /* wide: the most outputs of q, k and v together, or inputs of a last product */
    const int64_t *ids;    /* of each row, where x is to be filled from `embedding` times `embedding_scale`; else null */
    const Matrix *embedding;
    float embedding_scale;
    const Norm *norm;      /* of x after all parts; or null */
} Step;

/* ---- norms and activations ---- */

static void normalise(const Norm *norm, const float *x, float *out, int64_t size) {
    if (norm->kind == NO_NORM) {
        if (out != x) memcpy(out, x, size * sizeof *x);
        return;
    }
    vf sums = {0}, squares = {0};
    float mean = 0, square = 0;
    int64_t i = 0;
    if (norm->kind == LAYER_NORM) {
        for (; i + W <= size; i += W) sums += load(x + i);
        mean = sum(sums);
        for (; i < size; i++) mean += x[i];
        mean /= size;
    }
    for (i = 0; i + W <= size; i += W) {
        vf v = load(x + i) - all(mean);
        squares += v * v;
    }
    square = sum(squares);
    for (; i < size; i++) square += (x[i] - mean) * (x[i] - mean);
    float inverse = 1.0f / sqrtf(square / size + norm->eps);
    for (i = 0; i < size; i++) {
        float v = (x[i] - mean) * inverse * (norm->weight[i] + norm->offset);
        out[i] = norm->bias ? v + norm->bias[i] : v;
    }
}

static void activate(int64_t activation, float *x, int64_t size) {
    int64_t i = 0;
    if (activation == GELU) {
        for (; i < size; i++) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
        return;
    }
    for (; i < size; i += W) {
        vf v = {0};
        int64_t n = size - i < W ? size - i : W;
        memcpy(&v, x + i, n * sizeof *x);
        vf u = activation == SILU ? v : (v + v * v * v * 0.044715f) * 1.59576912f; /* x * sigmoid(2y) = x * (1 + tanh y) / 2 */
        v = v / (1.0f + exp_v(-u));
        memcpy(x + i, &v, n * sizeof *x);
    }
}

#endif
