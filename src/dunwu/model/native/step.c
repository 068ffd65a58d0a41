/* One pass of a decoder's layers over a few tokens: norms, products, rotary positions, paged attention, gated MLPs.

   The residual stream x [rows, width] goes through `parts`, each an attention or an MLP with its norms; between the phases of a
   part the team waits for one another. Norms are made by every thread for itself: that costs less than waiting. */
#include "products.h"
#include "team.h"

#define CHUNK 48 /* outputs that a thread takes at a time */
#define KEYS 64  /* keys whose scores exist at a time */
#define TOGETHER 4

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
    const float *cos[2], *sin[2]; /* [rows, turned] */
    const int64_t *slot;          /* where the keys and values of each row go */
    const int64_t *seen;          /* how many tokens of its text each row sees, itself included */
    const int64_t *first_run;     /* of each row: its text's runs are first_run[r] .. first_run[r] + run_count[r] */
    const int64_t *run_count;
    const int64_t *runs; /* pairs: a slot, and the one after the last */
    float *scratch;      /* dunwu_scratch_floats */
    atomic_int *taken;   /* 3 for each part, 0 */
    const Part *parts;
    int64_t part_count;
    int64_t threads, wide; /* wide: the most outputs of any part's first products together */
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

/* ---- attention ---- */

typedef struct {
    float *x; /* normalised rows of this thread */
    Rows room; /* and where they, or others, are rounded */
    float most[TOGETHER], total[TOGETHER], scores[TOGETHER * KEYS];
} Own;

static void turn(const Step *s, const Part *p, int64_t row, float *head) {
    if (p->turns == STILL) return;
    const float *c = s->cos[p->table] + row * s->turned, *sn = s->sin[p->table] + row * s->turned;
    for (int64_t i = 0; i < s->turned; i++) {
        int64_t a = p->turns == HALVES ? i : 2 * i, b = p->turns == HALVES ? i + s->turned : 2 * i + 1;
        float left = head[a], right = head[b];
        head[a] = left * c[i] - right * sn[i];
        head[b] = right * c[i] + left * sn[i];
    }
}

static void remember(const Step *s, void *store, float *scales, int64_t kv, int64_t slot, const float *from) {
    int64_t at = kv * s->slots + slot;
    if (!s->cache_bytes) {
        memcpy((float *)store + at * s->head_dim, from, s->head_dim * sizeof *from);
        return;
    }
    float most = 0;
    for (int64_t c = 0; c < s->head_dim; c++) most = fabsf(from[c]) > most ? fabsf(from[c]) : most;
    float scale = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0;
    int8_t *to = (int8_t *)store + at * s->head_dim;
    for (int64_t c = 0; c < s->head_dim; c++) to[c] = (int8_t)rintf(from[c] * inverse);
    scales[at] = scale;
}

/* Turn the queries that share a key head, its key, and store key and value. The row's q, k and v lie one after another. */
static void enter_row(const Step *s, const Part *p, int64_t row, int64_t kv, float *qkv) {
    int64_t C = s->head_dim, group = s->heads / s->kv_heads;
    float *q = qkv + kv * group * C, *k = qkv + (s->heads + kv) * C, *v = qkv + (s->heads + s->kv_heads + kv) * C;
    for (int64_t h = 0; h < group; h++) {
        if (!p->norm_all) normalise(&p->q_norm, q + h * C, q + h * C, C);
        turn(s, p, row, q + h * C);
    }
    if (!p->norm_all) normalise(&p->k_norm, k, k, C);
    turn(s, p, row, k);
    remember(s, p->keys, p->key_scales, kv, s->slot[row], k);
    remember(s, p->values, p->value_scales, kv, s->slot[row], v);
}

INLINE vf cached(const int bytes, const void *store, int64_t at) {
    return bytes ? load_bytes((const int8_t *)store + at) : load((const float *)store + at);
}

INLINE float cached_one(const int bytes, const void *store, int64_t at) {
    return bytes ? (float)((const int8_t *)store)[at] : ((const float *)store)[at];
}

/* Products of G queries with `count` keys from `at` on, into scores [G, KEYS]. */
INLINE void score(const int bytes, const int G, int64_t C, const void *keys, int64_t at, int count, const float *q, float *scores) {
    for (int i = 0; i < count; i++) {
        vf sums[TOGETHER];
        EACH(g, G) sums[g] = (vf){0};
        int64_t c = 0, key = (at + i) * C;
        for (; c + W <= C; c += W) {
            vf k = cached(bytes, keys, key + c);
            EACH(g, G) sums[g] += k * load(q + g * C + c);
        }
        EACH(g, G) {
            float s = sum(sums[g]);
            for (int64_t rest = c; rest < C; rest++) s += cached_one(bytes, keys, key + rest) * q[g * C + rest];
            scores[g * KEYS + i] = s;
        }
    }
}

/* out [G, C] += shares [G, KEYS] times `count` values from `at` on. */
INLINE void mix(const int bytes, const int G, int64_t C, const void *values, int64_t at, int count, const float *shares, float *out) {
    int64_t c = 0;
    for (; c + W <= C; c += W) {
        vf sums[TOGETHER];
        EACH(g, G) sums[g] = load(out + g * C + c);
        for (int i = 0; i < count; i++) {
            vf v = cached(bytes, values, (at + i) * C + c);
            EACH(g, G) sums[g] += v * shares[g * KEYS + i];
        }
        EACH(g, G) store(out + g * C + c, sums[g]);
    }
    for (; c < C; c++)
        for (int i = 0; i < count; i++)
            EACH(g, G) out[g * C + c] += shares[g * KEYS + i] * cached_one(bytes, values, (at + i) * C + c);
}

#define FOR_GROUP(G) case G: if (bytes) DO(1, G); else DO(0, G); break;
#define FOR_GROUPS(G) switch (G) { FOR_GROUP(1) FOR_GROUP(2) FOR_GROUP(3) FOR_GROUP(4) }

static void score_any(int bytes, int G, int64_t C, const void *keys, int64_t at, int count, const float *q, float *scores) {
#define DO(B, N) score(B, N, C, keys, at, count, q, scores)
    FOR_GROUPS(G)
#undef DO
}

static void mix_any(int bytes, int G, int64_t C, const void *values, int64_t at, int count, const float *shares, float *out) {
#define DO(B, N) mix(B, N, C, values, at, count, shares, out)
    FOR_GROUPS(G)
#undef DO
}

/* Softmax as it goes (arXiv:2205.14135): scores of `count` keys become shares under the greatest score so far, and what was
   summed before is brought under it. */
static void share_out(const Part *p, int count, const float *key_scales, const float *value_scales, float *scores, float *most,
                      float *total, float *out, int64_t C) {
    float greatest = *most;
    for (int i = 0; i < count; i++) {
        float s = scores[i] * p->scale * (key_scales ? key_scales[i] : 1.0f);
        if (p->cap > 0) s = p->cap * tanhf(s / p->cap);
        scores[i] = s;
        greatest = s > greatest ? s : greatest;
    }
    for (int i = count; i < KEYS; i++) scores[i] = -INFINITY;
    float shrink = expf(*most - greatest);
    if (shrink != 1.0f)
        for (int64_t c = 0; c < C; c++) out[c] *= shrink;
    vf sums = {0};
    for (int i = 0; i < count; i += W) {
        vf e = exp_v(load(scores + i) - all(greatest));
        sums += e;
        store(scores + i, e);
    }
    *total = *total * shrink + sum(sums);
    *most = greatest;
    if (value_scales)
        for (int i = 0; i < count; i++) scores[i] *= value_scales[i];
}

/* What one row finds for up to TOGETHER heads that share a key head; out [G, C]. */
static void attend(const Step *s, const Part *p, int64_t row, int64_t kv, int64_t head, int G, const float *q, float *out, Own *own) {
    int64_t C = s->head_dim, base = kv * s->slots;
    int64_t seen = s->seen[row], skip = p->window && seen > p->window ? seen - p->window : 0;
    const int64_t *runs = s->runs + 2 * s->first_run[row];
    for (int g = 0; g < G; g++) own->most[g] = p->sinks ? p->sinks[head + g] : -INFINITY, own->total[g] = p->sinks ? 1.0f : 0.0f;
    memset(out, 0, G * C * sizeof *out);
    for (int64_t run = 0, before = 0; run < s->run_count[row] && before < seen; run++) {
        int64_t start = runs[2 * run], size = runs[2 * run + 1] - start;
        int64_t i = skip > before ? skip - before : 0, end = seen - before < size ? seen - before : size;
        for (; i < end; i += KEYS) {
            int count = (int)(end - i < KEYS ? end - i : KEYS);
            int64_t at = base + start + i;
            score_any((int)s->cache_bytes, G, C, p->keys, at, count, q, own->scores);
            for (int g = 0; g < G; g++)
                share_out(p, count, s->cache_bytes ? p->key_scales + at : 0, s->cache_bytes ? p->value_scales + at : 0,
                          own->scores + g * KEYS, own->most + g, own->total + g, out + g * C, C);
            mix_any((int)s->cache_bytes, G, C, p->values, at, count, own->scores, out);
        }
        before += size;
    }
    for (int g = 0; g < G; g++)
        for (int64_t c = 0; c < C; c++) out[g * C + c] /= own->total[g];
}

/* ---- the phases of a part ---- */

/* Where things lie in the scratch: what the first products give, what goes into the last, what comes out of it, and each
   thread's own normalised rows. */
static float *firsts(const Step *s) { return s->scratch; }
static float *inner(const Step *s) { return s->scratch + s->rows * s->wide; }
static float *outer(const Step *s) { return inner(s) + s->rows * s->wide; }
static float *own_rows(const Step *s, int thread) { return outer(s) + s->rows * s->width * (1 + thread); }

int64_t dunwu_scratch_floats(int64_t rows, int64_t width, int64_t wide, int64_t threads) {
    return rows * (2 * wide + (1 + threads) * width) + 64;
}

static void normalise_rows(const Step *s, const Norm *norm, Own *own) {
    for (int64_t r = 0; r < s->rows; r++) normalise(norm, s->x + r * s->width, own->x + r * s->width, s->width);
}

/* Chunks of the outputs of several matrices, numbered on; gives the matrix and where in it the chunk lies, or NULL at the end. */
static const Matrix *chunk_of(const Matrix *matrices, int count, int64_t number, int64_t *start, int64_t *end, int64_t *before) {
    *before = 0;
    for (int i = 0; i < count; i++) {
        int64_t chunks = (matrices[i].outputs + CHUNK - 1) / CHUNK;
        if (number < chunks) {
            *start = number * CHUNK;
            *end = *start + CHUNK < matrices[i].outputs ? *start + CHUNK : matrices[i].outputs;
            return matrices + i;
        }
        number -= chunks;
        *before += matrices[i].outputs;
    }
    return 0;
}

static void query_key_value(const Step *s, const Part *p, atomic_int *taken, const Own *own) {
    const Rows x = rows_for(p->first, 3, own->x, s->width, (int)s->rows, &own->room);
    int64_t start, end, before, wide = p->first[0].outputs + p->first[1].outputs + p->first[2].outputs;
    const Matrix *m;
    while ((m = chunk_of(p->first, 3, atomic_fetch_add(taken, 1), &start, &end, &before)))
        product(m, start, end, &x, (int)s->rows, firsts(s) + before + start, wide);
}

static void attend_all(const Step *s, const Part *p, atomic_int *taken, Team *team, int thread, Own *own) {
    int64_t C = s->head_dim, group = s->heads / s->kv_heads, wide = (s->heads + 2 * s->kv_heads) * C;
    if (p->norm_all) {
        for (int64_t r = thread; r < s->rows; r += team->threads) {
            float *q = firsts(s) + r * wide;
            normalise(&p->q_norm, q, q, s->heads * C);
            normalise(&p->k_norm, q + s->heads * C, q + s->heads * C, s->kv_heads * C);
        }
        barrier(team);
    }
    if (s->chunked) {
        for (int64_t i = thread; i < s->rows * s->kv_heads; i += team->threads)
            enter_row(s, p, i / s->kv_heads, i % s->kv_heads, firsts(s) + i / s->kv_heads * wide);
        barrier(team);
    }
    for (int64_t i; (i = atomic_fetch_add(taken, 1)) < s->rows * s->kv_heads;) {
        int64_t row = i / s->kv_heads, kv = i % s->kv_heads;
        float *qkv = firsts(s) + row * wide;
        if (!s->chunked) enter_row(s, p, row, kv, qkv);
        for (int64_t h = 0; h < group; h += TOGETHER) {
            int64_t head = kv * group + h;
            attend(s, p, row, kv, head, (int)(group - h < TOGETHER ? group - h : TOGETHER), qkv + head * C,
                   inner(s) + (row * s->heads + head) * C, own);
        }
    }
}

static void gate_and_up(const Step *s, const Part *p, atomic_int *taken, const Own *own) {
    const Matrix *gate = &p->first[0], *up = &p->first[1];
    const Rows x = rows_for(p->first, 2, own->x, s->width, (int)s->rows, &own->room);
    float gates[CHUNK];
    for (int64_t start; (start = CHUNK * (int64_t)atomic_fetch_add(taken, 1)) < up->outputs;) {
        int64_t end = start + CHUNK < up->outputs ? start + CHUNK : up->outputs;
        float *to = inner(s) + start;
        product(up, start, end, &x, (int)s->rows, to, up->outputs);
        if (gate->outputs) product(gate, start, end, &x, (int)s->rows, firsts(s) + start, up->outputs);
        for (int64_t r = 0; r < s->rows; r++) {
            float *up_row = to + r * up->outputs;
            if (!gate->outputs) {
                activate(p->activation, up_row, end - start);
                continue;
            }
            memcpy(gates, firsts(s) + start + r * up->outputs, (end - start) * sizeof *gates);
            activate(p->activation, gates, end - start);
            for (int64_t o = 0; o < end - start; o++) up_row[o] *= gates[o];
        }
    }
}

/* x += norm(last product of what is inside). */
static void back_to_the_stream(const Step *s, const Part *p, atomic_int *taken, Team *team, int thread, const Own *own) {
    const Matrix *m = &p->last;
    const Rows x = rows_for(m, 1, inner(s), m->inputs, (int)s->rows, &own->room);
    for (int64_t start; (start = CHUNK / 3 * (int64_t)atomic_fetch_add(taken, 1)) < m->outputs;) {
        int64_t end = start + CHUNK / 3 < m->outputs ? start + CHUNK / 3 : m->outputs;
        float *out = outer(s) + start;
        product(m, start, end, &x, (int)s->rows, out, s->width);
        if (p->after.kind != NO_NORM) continue;
        for (int64_t r = 0; r < s->rows; r++)
            for (int64_t o = 0; o < end - start; o++) s->x[r * s->width + start + o] += out[r * s->width + o];
    }
    barrier(team);
    if (p->after.kind == NO_NORM) return;
    for (int64_t r = thread; r < s->rows; r += team->threads) {
        float *out = outer(s) + r * s->width;
        normalise(&p->after, out, out, s->width);
        for (int64_t o = 0; o < s->width; o++) s->x[r * s->width + o] += out[o];
    }
    barrier(team);
}

static void go_through(void *step, Team *team, int thread) {
    const Step *s = step;
    Own own = {.x = own_rows(s, thread)};
    make_room(&own.room, s->rows, s->wide > s->width ? s->wide : s->width);
    for (int64_t i = 0; i < s->part_count; i++) {
        const Part *p = s->parts + i;
        atomic_int *taken = s->taken + 3 * i;
        normalise_rows(s, &p->before, &own);
        if (p->kind == ATTENTION) {
            query_key_value(s, p, taken, &own);
            barrier(team);
            attend_all(s, p, taken + 1, team, thread, &own);
        } else {
            gate_and_up(s, p, taken, &own);
        }
        barrier(team);
        back_to_the_stream(s, p, taken + 2, team, thread, &own);
    }
    free(own.room.numbers);
}

/* x [rows, size], normalised in place. */
void dunwu_normalise(const Norm *norm, float *x, int64_t rows, int64_t size) {
    for (int64_t r = 0; r < rows; r++) normalise(norm, x + r * size, x + r * size, size);
}

/* Take x through all parts. */
void dunwu_step(const Step *step) { run_team(go_through, (void *)step, (int)step->threads); }

typedef struct {
    const Matrix *matrix;
    const float *x;
    float *out;
    int64_t rows, ldx;
    atomic_int taken;
} Product;

static void multiply(void *what, Team *team, int thread) {
    (void)team, (void)thread;
    Product *p = what;
    Rows room;
    make_room(&room, p->rows, p->matrix->inputs);
    const Rows x = rows_for(p->matrix, 1, p->x, p->ldx, (int)p->rows, &room);
    const int64_t size = p->matrix->outputs > 4096 ? 4 * CHUNK : CHUNK;
    for (int64_t start; (start = size * atomic_fetch_add(&p->taken, 1)) < p->matrix->outputs;) {
        int64_t end = start + size < p->matrix->outputs ? start + size : p->matrix->outputs;
        product(p->matrix, start, end, &x, (int)p->rows, p->out + start, p->matrix->outputs);
    }
    free(room.numbers);
}

/* out [rows, outputs] = x [rows, inputs] times the matrix. */
void dunwu_product(const Matrix *matrix, const float *x, int64_t ldx, int64_t rows, float *out, int64_t threads) {
    Product p = {.matrix = matrix, .x = x, .out = out, .rows = rows, .ldx = ldx};
    run_team(multiply, &p, (int)threads);
}
