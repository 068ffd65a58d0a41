/* What training does between its large products, forward and backward: norms, gates, rotary positions, attention, cross-entropy.

   All is float32. Work is split over threads by rows or heads in a fixed way, so that the same number of threads gives the same
   bits. Each function equals a formula of torch's in `kernels.py`; tests compare them. */
#include "tiles.h"

#include <stdlib.h>

#include "team.h"

#define FEW (1 << 14) /* fewer numbers than this are not worth a second thread */

static int threads_for(int64_t numbers, int64_t threads) { return numbers < FEW ? 1 : (int)threads; }

static int64_t share(int64_t rows, int thread, int threads) { return rows * thread / threads; }

static int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* ---- root-mean-square norms ---- */

typedef struct {
    const float *x, *weight, *grad;
    float *out, *inverse, *grad_weight;
    int64_t rows, size;
    float eps;
} Norms;

static void normalise_rows(void *what, Team *team, int thread) {
    const Norms *n = what;
    const int64_t size = n->size, whole = size / W * W;
    for (int64_t r = share(n->rows, thread, team->threads); r < share(n->rows, thread + 1, team->threads); r++) {
        const float *x = n->x + r * size;
        float *out = n->out + r * size;
        vf squares[2] = {{0}, {0}};
        int64_t i = 0;
        for (; i + 2 * W <= whole; i += 2 * W) {
            squares[0] += load(x + i) * load(x + i);
            squares[1] += load(x + i + W) * load(x + i + W);
        }
        for (; i < whole; i += W) squares[0] += load(x + i) * load(x + i);
        float total = sum(squares[0] + squares[1]);
        for (; i < size; i++) total += x[i] * x[i];
        const float inverse = 1.0f / sqrtf(total / (float)size + n->eps);
        n->inverse[r] = inverse;
        for (i = 0; i < whole; i += W) store(out + i, load(x + i) * inverse * load(n->weight + i));
        for (; i < size; i++) out[i] = x[i] * inverse * n->weight[i];
    }
}

/* out [rows, size] = x * inverse * weight; inverse [rows] = 1 / sqrt(mean(x²) + eps). */
void dunwu_rms_norm(const float *x, const float *weight, float *out, float *inverse, int64_t rows, int64_t size, float eps,
                    int64_t threads) {
    Norms n = {.x = x, .weight = weight, .out = out, .inverse = inverse, .rows = rows, .size = size, .eps = eps};
    run_team(normalise_rows, &n, threads_for(rows * size, threads));
}

static void normalise_rows_backward(void *what, Team *team, int thread) {
    const Norms *n = what;
    const int64_t size = n->size, whole = size / W * W;
    float *to_weight = n->grad_weight ? n->grad_weight + thread * size : 0;
    if (to_weight) memset(to_weight, 0, size * sizeof *to_weight);
    for (int64_t r = share(n->rows, thread, team->threads); r < share(n->rows, thread + 1, team->threads); r++) {
        const float *x = n->x + r * size, *grad = n->grad + r * size;
        const float inverse = n->inverse[r];
        float *out = n->out + r * size;
        vf dots[2] = {{0}, {0}};
        int64_t i = 0;
        for (; i + 2 * W <= whole; i += 2 * W) {
            dots[0] += load(x + i) * load(grad + i) * load(n->weight + i);
            dots[1] += load(x + i + W) * load(grad + i + W) * load(n->weight + i + W);
        }
        for (; i < whole; i += W) dots[0] += load(x + i) * load(grad + i) * load(n->weight + i);
        float dot = sum(dots[0] + dots[1]);
        for (; i < size; i++) dot += x[i] * grad[i] * n->weight[i];
        const float slope = dot * inverse * inverse * inverse / (float)size;
        for (i = 0; i < whole; i += W) {
            const vf xs = load(x + i), grads = load(grad + i);
            if (to_weight) store(to_weight + i, load(to_weight + i) + grads * xs * inverse);
            store(out + i, grads * load(n->weight + i) * inverse - xs * slope);
        }
        for (; i < size; i++) {
            const float g = grad[i];
            if (to_weight) to_weight[i] += g * x[i] * inverse;
            out[i] = g * n->weight[i] * inverse - x[i] * slope;
        }
    }
    barrier(team);
    if (!to_weight) return;
    for (int64_t i = share(size, thread, team->threads); i < share(size, thread + 1, team->threads); i++)
        for (int t = 1; t < team->threads; t++) n->grad_weight[i] += n->grad_weight[t * size + i];
}

/* out [rows, size]; grad_weight is null or has room for `threads` times `size`, and the first `size` are the answer. */
void dunwu_rms_norm_backward(const float *grad, const float *x, const float *weight, float *inverse, float *out,
                             float *grad_weight, int64_t rows, int64_t size, int64_t threads) {
    Norms n = {.x = x, .weight = weight, .grad = grad, .out = out, .inverse = inverse, .grad_weight = grad_weight, .rows = rows,
               .size = size};
    run_team(normalise_rows_backward, &n, threads_for(rows * size, threads));
}

/* ---- gates ---- */

typedef struct {
    const float *gate, *up, *grad;
    float *out, *grad_gate, *grad_up; /* on the way back `out` may be null, or the same as grad */
    int64_t count;
} Gates;

INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exp_v(-x)); }

INLINE void gate_vector(const Gates *g, int64_t i) {
    const vf gate = load(g->gate + i);
    store(g->out + i, gate * sigmoid(gate) * load(g->up + i));
}

INLINE void gate_vector_backward(const Gates *g, int64_t i) {
    const vf gate = load(g->gate + i), up = load(g->up + i), grad = load(g->grad + i), s = sigmoid(gate), silu = gate * s;
    store(g->grad_up + i, grad * silu);
    store(g->grad_gate + i, grad * up * (s + silu * (1.0f - s)));
    if (g->out) store(g->out + i, silu * up);
}

/* The last numbers, fewer than a vector, through a vector of their own. */
static void gate_rest(const Gates *g, int64_t from) {
    float room[6][W] = {{0}};
    const int64_t bytes = (g->count - from) * sizeof(float);
    Gates few = {.gate = room[0], .up = room[1], .grad = room[2], .out = room[3], .grad_gate = room[4], .grad_up = room[5]};
    memcpy(room[0], g->gate + from, bytes);
    memcpy(room[1], g->up + from, bytes);
    if (!g->grad) {
        gate_vector(&few, 0);
        memcpy(g->out + from, few.out, bytes);
        return;
    }
    memcpy(room[2], g->grad + from, bytes);
    gate_vector_backward(&few, 0);
    memcpy(g->grad_gate + from, few.grad_gate, bytes);
    memcpy(g->grad_up + from, few.grad_up, bytes);
    if (g->out) memcpy(g->out + from, few.out, bytes);
}

static void gate_all(void *what, Team *team, int thread) {
    const Gates *g = what;
    const int64_t vectors = g->count / W, end = share(vectors, thread + 1, team->threads);
    int64_t v = share(vectors, thread, team->threads);
    if (g->grad)
        for (; v < end; v++) gate_vector_backward(g, v * W);
    else
        for (; v < end; v++) gate_vector(g, v * W);
    if (thread == 0 && g->count % W) gate_rest(g, vectors * W);
}

/* out = silu(gate) * up */
void dunwu_gated_silu(const float *gate, const float *up, float *out, int64_t count, int64_t threads) {
    Gates g = {.gate = gate, .up = up, .out = out, .count = count};
    run_team(gate_all, &g, threads_for(count, threads));
}

/* `out`: null, or where the product itself is to be made once more, which may be over `grad`. */
void dunwu_gated_silu_backward(const float *grad, const float *gate, const float *up, float *grad_gate, float *grad_up, float *out,
                               int64_t count, int64_t threads) {
    Gates g = {.gate = gate, .up = up, .grad = grad, .grad_gate = grad_gate, .grad_up = grad_up, .out = out, .count = count};
    run_team(gate_all, &g, threads_for(count, threads));
}

/* ---- rotary positions ---- */

/* Strides of a batch, a time and a head; channels are contiguous. */
typedef struct {
    int64_t batch, time, head;
} Strides;

typedef struct {
    const float *x, *cos, *sin;
    float *out, sign;
    Strides from, to;
    int64_t batch, time, heads, half, table_batch;
} Turns;

INLINE void turn_head(const Turns *t, const float *x, float *out, const float *cos, const float *sin) {
    int64_t c = 0;
    for (; c + W <= t->half; c += W) {
        const vf left = load(x + c), right = load(x + c + t->half), co = load(cos + c), si = load(sin + c) * t->sign;
        store(out + c, left * co - right * si);
        store(out + c + t->half, right * co + left * si);
    }
    for (; c < t->half; c++) {
        const float left = x[c], right = x[c + t->half], si = sin[c] * t->sign;
        out[c] = left * cos[c] - right * si;
        out[c + t->half] = right * cos[c] + left * si;
    }
}

static void turn_all(void *what, Team *team, int thread) {
    const Turns *t = what;
    const int64_t rows = t->batch * t->time;
    for (int64_t r = share(rows, thread, team->threads); r < share(rows, thread + 1, team->threads); r++) {
        const int64_t b = r / t->time, i = r % t->time, table = b * t->table_batch + i * t->half;
        for (int64_t h = 0; h < t->heads; h++)
            turn_head(t, t->x + b * t->from.batch + i * t->from.time + h * t->from.head,
                      t->out + b * t->to.batch + i * t->to.time + h * t->to.head, t->cos + table, t->sin + table);
    }
}

/* Channel c of each head is turned with channel c + half; `sign` -1 turns back. cos, sin [batch or 1, time, half]. */
void dunwu_rotate(const float *x, const Strides *from, float *out, const Strides *to, const float *cos, const float *sin,
                  int64_t table_batch, float sign, int64_t batch, int64_t time, int64_t heads, int64_t half, int64_t threads) {
    Turns t = {.x = x, .cos = cos, .sin = sin, .out = out, .sign = sign, .from = *from, .to = *to, .batch = batch, .time = time,
               .heads = heads, .half = half, .table_batch = table_batch};
    run_team(turn_all, &t, threads_for(batch * time * heads * half, threads));
}

/* ---- attention ---- */

#define QUERIES 64 /* of a block: their scores lie together */
#define PART 32    /* whose scores are made at a time: what lies above the diagonal beyond them is never computed */

/* q [batch, time, heads, channels] as `strides` say, k and v of kv_heads; `bias` null, or [batch, time, time], which forbids with
   -inf. `kept` holds for the way back, head by head, one over the sum of each query's raised scores, and these, block of queries by
   block: the probabilities are their products. */
typedef struct {
    const float *q, *k, *v, *bias, *grad_out;
    float *out, *kept, *grad_q, *grad_k, *grad_v;
    Strides qs, ks, vs, os, gqs, gks, gvs;
    int64_t batch, time, heads, kv_heads, channels;
    float scale;
} Attention;

typedef struct {
    const Attention *a;
    float *room;
    int64_t room_floats;
    atomic_int taken;
} Attending;

static int64_t padded_time(int64_t time) { return rounded_up(time, TILE_COLUMNS); }

/* The columns of the scores of the block of queries that begins at `start`: keys up to its last query, rounded up. */
static int64_t columns_of(int64_t start, int64_t time) {
    return padded_time(start + QUERIES < time ? start + QUERIES : time);
}

static int64_t kept_of_head(int64_t time) {
    int64_t floats = rounded_up(time, W);
    for (int64_t start = 0; start < time; start += QUERIES)
        floats += columns_of(start, time) * (start + QUERIES < time ? QUERIES : time - start);
    return floats;
}

static int64_t room_of_thread(const Attention *a) {
    const int64_t time = padded_time(a->time);
    return rounded_up((a->grad_out ? 6 * time + 2 * QUERIES : 3 * time) * a->channels + (a->grad_out ? QUERIES * time : 0), 64);
}

/* Rows of a head, scaled, one after another. */
static void gather(const float *from, int64_t stride, int64_t count, int64_t channels, float scale, float *to) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < channels; c += W) store(to + i * channels + c, load(from + i * stride + c) * scale);
}

static void scatter(const float *from, int64_t stride, int64_t count, int64_t channels, float scale, float *to) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < channels; c += W) store(to + i * stride + c, load(from + i * channels + c) * scale);
}

/* to [channels, padded time] from rows of a head; zeros behind the last. */
static void transpose_head(const float *from, int64_t stride, int64_t time, int64_t channels, float *to) {
    const int64_t padded = padded_time(time), whole = rounded_up(time, W);
    transpose(from, stride, time, channels, to, padded);
    for (int64_t c = 0; c < channels && whole < padded; c++) memset(to + c * padded + whole, 0, (padded - whole) * sizeof *to);
}

/* Scores of one query are raised, less the greatest; what lies behind its own place becomes zero. Gives one over their sum. */
static float raise_row(float *scores, int64_t place, int64_t columns, const float *bias) {
    const int64_t seen = place + 1, whole = rounded_up(seen, W);
    if (bias)
        for (int64_t j = 0; j < seen; j++) scores[j] += bias[j];
    for (int64_t j = seen; j < whole; j++) scores[j] = -INFINITY;
    vf most = load(scores);
    for (int64_t j = W; j < whole; j += W) most = larger(load(scores + j), most);
    float lanes[W], greatest;
    store(lanes, most);
    greatest = lanes[0];
    for (int i = 1; i < W; i++) greatest = lanes[i] > greatest ? lanes[i] : greatest;
    vf total = {0};
    for (int64_t j = 0; j < whole; j += W) {
        const vf e = exp_v(load(scores + j) - greatest);
        total += e;
        store(scores + j, e);
    }
    for (int64_t j = whole; j < columns; j++) scores[j] = 0.0f;
    return 1.0f / sum(total);
}

static void scale_row(float *row, float by, int64_t count) {
    for (int64_t c = 0; c < count; c += W) store(row + c, load(row + c) * by);
}

static void attend_head(const Attention *a, int64_t b, int64_t h, const float *keys, const float *values, float *queries) {
    const int64_t C = a->channels, T = a->time;
    float *inverse = a->kept + (b * a->heads + h) * kept_of_head(T), *raised = inverse + rounded_up(T, W);
    gather(a->q + b * a->qs.batch + h * a->qs.head, a->qs.time, T, C, a->scale, queries);
    for (int64_t start = 0, stride; start < T; start += QUERIES, raised += QUERIES * stride) {
        stride = columns_of(start, T);
        for (int64_t i = start; i < start + QUERIES && i < T; i += PART) {
            const int64_t end = i + PART < T ? i + PART : T, columns = padded_time(end);
            float *scores = raised + (i - start) * stride, *out = a->out + b * a->os.batch + h * a->os.head + i * a->os.time;
            multiply(end - i, columns, C, queries + i * C, C, 0, keys, padded_time(T), scores, stride, 0);
            for (int64_t t = i; t < end; t++)
                inverse[t] = raise_row(scores + (t - i) * stride, t, columns, a->bias ? a->bias + (b * T + t) * T : 0);
            multiply(end - i, C, end, scores, stride, 0, values, C, out, a->os.time, 0);
            for (int64_t t = i; t < end; t++) scale_row(out + (t - i) * a->os.time, inverse[t], C);
        }
    }
}

static void attend_heads(void *what, Team *team, int thread) {
    Attending *now = what;
    const Attention *a = now->a;
    const int64_t T = padded_time(a->time), C = a->channels, group = a->heads / a->kv_heads;
    float *keys = now->room + thread * now->room_floats, *values = keys + T * C, *queries = values + T * C;
    (void)team;
    for (int64_t i; (i = atomic_fetch_add(&now->taken, 1)) < a->batch * a->kv_heads;) {
        const int64_t b = i / a->kv_heads, kv = i % a->kv_heads;
        transpose_head(a->k + b * a->ks.batch + kv * a->ks.head, a->ks.time, a->time, C, keys);
        gather(a->v + b * a->vs.batch + kv * a->vs.head, a->vs.time, a->time, C, 1.0f, values);
        for (int64_t h = kv * group; h < (kv + 1) * group; h++) attend_head(a, b, h, keys, values, queries);
    }
}

/* The slopes of the scores of one query, in place. Given: those of its probabilities, times `inverse`, and its raised scores. */
static void raise_row_backward(float *slopes, const float *raised, float inverse, int64_t columns) {
    vf dots = {0};
    for (int64_t j = 0; j < columns; j += W) dots += load(slopes + j) * load(raised + j);
    const float dot = sum(dots) * inverse;
    for (int64_t j = 0; j < columns; j += W) store(slopes + j, (load(slopes + j) - dot) * load(raised + j));
}

/* to [end, channels] += the transpose of `by` [end - start queries, keys] times from [end - start, channels]; queries see no later key. */
static void add_to_keys(int64_t start, int64_t end, int64_t C, const float *by, int64_t stride, const float *from, float *to) {
    const int64_t later = start + PART;
    multiply(later < end ? later : end, C, end - start, by, stride, 1, from, C, to, C, 1);
    if (later < end)
        multiply(end - later, C, end - later, by + PART * stride + later, stride, 1, from + PART * C, C, to + later * C, C, 1);
}

/* `keys` [time, channels] and `values` [channels, padded time] of the head; what is left of `room` is scratch. */
static void attend_head_backward(const Attention *a, int64_t b, int64_t h, const float *keys, const float *values, float *to_keys,
                                 float *to_values, float *room) {
    const int64_t C = a->channels, T = a->time, padded = padded_time(T);
    const float *inverse = a->kept + (b * a->heads + h) * kept_of_head(T), *raised = inverse + rounded_up(T, W);
    const float *grad_out = a->grad_out + b * a->os.batch + h * a->os.head;
    float *queries = room, *grads = queries + padded * C, *to_queries = grads + QUERIES * C, *slopes = to_queries + QUERIES * C;
    gather(a->q + b * a->qs.batch + h * a->qs.head, a->qs.time, T, C, a->scale, queries);
    for (int64_t start = 0, stride; start < T; start += QUERIES, raised += QUERIES * stride) {
        const int64_t last = start + QUERIES < T ? start + QUERIES : T;
        stride = columns_of(start, T);
        for (int64_t t = start; t < last; t++) gather(grad_out + t * a->os.time, 0, 1, C, inverse[t], grads + (t - start) * C);
        add_to_keys(start, last, C, raised, stride, grads, to_values);
        for (int64_t i = start; i < last; i += PART) {
            const int64_t end = i + PART < T ? i + PART : T, columns = padded_time(end), before = i - start;
            float *own = slopes + before * stride;
            multiply(end - i, columns, C, grads + before * C, C, 0, values, padded, own, stride, 0);
            for (int64_t t = 0; t < end - i; t++)
                raise_row_backward(own + t * stride, raised + (before + t) * stride, inverse[i + t], columns);
            multiply(end - i, C, end, own, stride, 0, keys, C, to_queries, C, 0);
            scatter(to_queries, a->gqs.time, end - i, C, a->scale, a->grad_q + b * a->gqs.batch + h * a->gqs.head + i * a->gqs.time);
        }
        add_to_keys(start, last, C, slopes, stride, queries + start * C, to_keys);
    }
}

static void attend_heads_backward(void *what, Team *team, int thread) {
    Attending *now = what;
    const Attention *a = now->a;
    const int64_t T = padded_time(a->time), C = a->channels, group = a->heads / a->kv_heads;
    float *keys = now->room + thread * now->room_floats, *values = keys + T * C, *to_keys = values + T * C, *to_values = to_keys + T * C;
    (void)team;
    for (int64_t i; (i = atomic_fetch_add(&now->taken, 1)) < a->batch * a->kv_heads;) {
        const int64_t b = i / a->kv_heads, kv = i % a->kv_heads;
        gather(a->k + b * a->ks.batch + kv * a->ks.head, a->ks.time, a->time, C, 1.0f, keys);
        transpose_head(a->v + b * a->vs.batch + kv * a->vs.head, a->vs.time, a->time, C, values);
        memset(to_keys, 0, 2 * T * C * sizeof *to_keys);
        for (int64_t h = kv * group; h < (kv + 1) * group; h++)
            attend_head_backward(a, b, h, keys, values, to_keys, to_values, to_values + T * C);
        scatter(to_keys, a->gks.time, a->time, C, 1.0f, a->grad_k + b * a->gks.batch + kv * a->gks.head);
        scatter(to_values, a->gvs.time, a->time, C, 1.0f, a->grad_v + b * a->gvs.batch + kv * a->gvs.head);
    }
}

int64_t dunwu_attention_kept(int64_t batch, int64_t time, int64_t heads) { return batch * heads * kept_of_head(time); }

/* Whether heads of so many channels are served. */
int64_t dunwu_attention_serves(int64_t channels) { return channels > 0 && channels % W == 0; }

/* Gives 0, or 1 where there was no room. */
static int64_t attend(const Attention *a, Work work, int64_t threads) {
    Attending now = {.a = a, .room_floats = room_of_thread(a)};
    const int team = threads_for(a->batch * a->heads * a->time * a->channels, threads < MOST_THREADS ? threads : MOST_THREADS);
    now.room = aligned_alloc(64, team * now.room_floats * sizeof(float));
    if (!now.room) return 1;
    run_team(work, &now, team);
    free(now.room);
    return 0;
}

int64_t dunwu_attention(const Attention *a, int64_t threads) { return attend(a, attend_heads, threads); }

int64_t dunwu_attention_backward(const Attention *a, int64_t threads) { return attend(a, attend_heads_backward, threads); }

/* ---- cross-entropy of logits at hand ---- */

typedef struct {
    float *logits;
    const int64_t *targets;
    double *losses;
    int64_t rows, size, ignored;
    float scale;
} Entropies;

static void entropy_rows(void *what, Team *team, int thread) {
    const Entropies *e = what;
    const int64_t size = e->size, whole = size / W * W;
    for (int64_t r = share(e->rows, thread, team->threads); r < share(e->rows, thread + 1, team->threads); r++) {
        float *logits = e->logits + r * size;
        e->losses[r] = 0;
        if (e->targets[r] == e->ignored || e->targets[r] < 0 || e->targets[r] >= size) {
            memset(logits, 0, size * sizeof *logits);
            continue;
        }
        vf most = all(-INFINITY), total = {0};
        int64_t i = 0;
        for (; i < whole; i += W) {
            const vf l = load(logits + i);
            most = larger(l, most);
        }
        float lanes[W], greatest = -INFINITY, rest = 0;
        store(lanes, most);
        for (int j = 0; j < W; j++) greatest = lanes[j] > greatest ? lanes[j] : greatest;
        for (; i < size; i++) greatest = logits[i] > greatest ? logits[i] : greatest;
        const float target = logits[e->targets[r]] - greatest;
        for (i = 0; i < whole; i += W) {
            const vf p = exp_v(load(logits + i) - greatest);
            total += p;
            store(logits + i, p);
        }
        for (; i < size; i++) rest += logits[i] = expf(logits[i] - greatest);
        rest += sum(total);
        const float factor = e->scale / rest;
        for (i = 0; i < whole; i += W) store(logits + i, load(logits + i) * factor);
        for (; i < size; i++) logits[i] *= factor;
        logits[e->targets[r]] -= e->scale;
        e->losses[r] = log((double)rest) - target;
    }
}

/* losses [rows] = the cross-entropy of each row, nats, 0 where the target is `ignored`; logits [rows, size] become `scale` times its
   slope. Gives how many targets are neither ignored nor within the row. */
int64_t dunwu_cross_entropy(float *logits, const int64_t *targets, double *losses, int64_t rows, int64_t size, int64_t ignored,
                         float scale, int64_t threads) {
    int64_t strange = 0;
    for (int64_t r = 0; r < rows; r++) strange += targets[r] != ignored && (targets[r] < 0 || targets[r] >= size);
    Entropies e = {.logits = logits, .targets = targets, .losses = losses, .rows = rows, .size = size, .ignored = ignored,
                   .scale = scale};
    run_team(entropy_rows, &e, threads_for(rows * size, threads));
    return strange;
}

/* ---- linear layers ---- */

#define MOST_MATRICES 4
#define ITEM_ROWS (9 * TILE_ROWS) /* that one thread takes at a time */

/* `count` matrices [outputs, inputs] that read the same x [rows, inputs]. */
typedef struct {
    const float *x, *weights[MOST_MATRICES], *grads[MOST_MATRICES];
    float *outs[MOST_MATRICES], *grad_x, *grad_weights[MOST_MATRICES], *packed;
    int64_t outputs[MOST_MATRICES], rows, inputs, count;
} Linear;

typedef struct {
    const Linear *l;
    atomic_int packed, taken;
} Multiplying;

/* Into how many items so many rows are cut: enough for the threads to finish together. */
static int64_t items_of(int64_t rows, int threads) {
    const int64_t least = (rows + ITEM_ROWS - 1) / ITEM_ROWS, most = (rows + 2 * TILE_ROWS - 1) / (2 * TILE_ROWS);
    const int64_t wanted = threads == 1 ? 1 : 3 * threads;
    return least > wanted ? least : most < wanted ? most : wanted;
}

/* A panel of TILE_COLUMNS outputs of matrix m, as [inputs, TILE_COLUMNS]. */
static void pack_panel(const Linear *l, int64_t m, int64_t panel, float *to) {
    const int64_t first = panel * TILE_COLUMNS, left = l->outputs[m] - first;
    transpose(l->weights[m] + first * l->inputs, l->inputs, left < TILE_COLUMNS ? left : TILE_COLUMNS, l->inputs, to, TILE_COLUMNS);
}

static void linear_forward(void *what, Team *team, int thread) {
    Multiplying *now = what;
    const Linear *l = now->l;
    const int64_t size = l->inputs * TILE_COLUMNS;
    int64_t panels[MOST_MATRICES + 1] = {0};
    (void)thread;
    for (int64_t m = 0; m < l->count; m++) panels[m + 1] = panels[m] + (l->outputs[m] + TILE_COLUMNS - 1) / TILE_COLUMNS;
    for (int64_t p, m = 0; (p = atomic_fetch_add(&now->packed, 1)) < panels[l->count];) {
        while (p >= panels[m + 1]) m++;
        pack_panel(l, m, p - panels[m], l->packed + p * size);
    }
    barrier(team);
    const int64_t items = items_of(l->rows, team->threads);
    for (int64_t i; (i = atomic_fetch_add(&now->taken, 1)) < items;) {
        const int64_t start = i * l->rows / items, rows = (i + 1) * l->rows / items - start;
        for (int64_t m = 0; m < l->count; m++)
            multiply_panels(rows, l->outputs[m], l->inputs, l->x + start * l->inputs, l->inputs, 0, l->packed + panels[m] * size,
                            TILE_COLUMNS, size, l->outs[m] + start * l->outputs[m], l->outputs[m], 0);
    }
}

static void linear_grad_x(void *what, Team *team, int thread) {
    Multiplying *now = what;
    const Linear *l = now->l;
    const int64_t items = items_of(l->rows, team->threads);
    (void)thread;
    for (int64_t i; (i = atomic_fetch_add(&now->taken, 1)) < items;) {
        const int64_t start = i * l->rows / items, rows = (i + 1) * l->rows / items - start;
        for (int64_t m = 0; m < l->count; m++)
            multiply(rows, l->inputs, l->outputs[m], l->grads[m] + start * l->outputs[m], l->outputs[m], 0, l->weights[m], l->inputs,
                     l->grad_x + start * l->inputs, l->inputs, m > 0);
    }
}

static void linear_grad_weights(void *what, Team *team, int thread) {
    Multiplying *now = what;
    const Linear *l = now->l;
    int64_t items[MOST_MATRICES + 1] = {0};
    (void)thread;
    for (int64_t m = 0; m < l->count; m++) items[m + 1] = items[m] + items_of(l->outputs[m], team->threads);
    for (int64_t i, m = 0; (i = atomic_fetch_add(&now->taken, 1)) < items[l->count];) {
        while (i >= items[m + 1]) m++;
        const int64_t cuts = items[m + 1] - items[m], start = (i - items[m]) * l->outputs[m] / cuts;
        const int64_t rows = (i - items[m] + 1) * l->outputs[m] / cuts - start;
        multiply(rows, l->inputs, l->rows, l->grads[m] + start, l->outputs[m], 1, l->x, l->inputs,
                 l->grad_weights[m] + start * l->inputs, l->inputs, 0);
    }
}

/* Whether a matrix of so many outputs and inputs is served. */
int64_t dunwu_linear_serves(int64_t outputs, int64_t inputs) { return outputs > 0 && inputs > 0 && outputs % W == 0 && inputs % W == 0; }

/* outs[m] [rows, outputs] = x times the transpose of weights[m]. Gives 0, or 1 where there was no room. */
int64_t dunwu_linear(Linear *l, int64_t threads) {
    Multiplying now = {.l = l};
    int64_t floats = 0;
    for (int64_t m = 0; m < l->count; m++) floats += rounded_up(l->outputs[m], TILE_COLUMNS) * l->inputs;
    l->packed = aligned_alloc(64, rounded_up(floats, 16) * sizeof(float));
    if (!l->packed) return 1;
    run_team(linear_forward, &now, (int)threads);
    free(l->packed);
    return 0;
}

/* grad_x and those of `grad_weights` that are not null: they come in the order of the matrices, all or none. */
void dunwu_linear_backward(const Linear *l, int64_t threads) {
    Multiplying first = {.l = l}, second = {.l = l};
    if (l->grad_x) run_team(linear_grad_x, &first, (int)threads);
    if (l->grad_weights[0]) run_team(linear_grad_weights, &second, (int)threads);
}

/* ---- the head and its cross-entropy ---- */

/* The logits of `chunk` tokens at a time lie as [vocabulary, tokens]: then neither the head [size, width] nor the logits need to be
   transposed for any of the three products, and a vector holds so many tokens. */
typedef struct {
    const float *hidden, *head;
    const int64_t *targets;
    double *losses;
    float *grad_hidden, *grad_head;
    int64_t rows, width, size, chunk, ignored;
    float scale;
    float *room;
    int64_t start, count, columns, blocks; /* of the chunk at hand */
    float *logits, *turned, *scaled, *most, *sums, *greatest, *factors, *found;
} Head;

static int64_t blocks_of(int64_t size) { return (size + ITEM_ROWS - 1) / ITEM_ROWS; }

static int64_t head_room(const Head *h) {
    const int64_t columns = rounded_up(h->chunk, TILE_COLUMNS);
    return columns * (h->size + 2 * h->width + 2 * blocks_of(h->size) + 3);
}

static void lay_out(Head *h) {
    const int64_t columns = h->columns = rounded_up(h->count, TILE_COLUMNS);
    h->blocks = blocks_of(h->size);
    h->logits = h->room;
    h->turned = h->logits + columns * h->size;
    h->scaled = h->turned + columns * h->width;
    h->most = h->scaled + columns * h->width;
    h->sums = h->most + columns * h->blocks;
    h->greatest = h->sums + columns * h->blocks;
    h->factors = h->greatest + columns;
    h->found = h->factors + columns;
}

static int64_t block_start(const Head *h, int64_t block) { return block * h->size / h->blocks; }

static int learned(const Head *h, int64_t token) {
    const int64_t target = h->targets[h->start + token];
    return target != h->ignored && target >= 0 && target < h->size;
}

/* Hidden states as panels [width, TILE_COLUMNS tokens]; zeros behind the last. */
static void turn(const float *hidden, int64_t count, int64_t width, float *to) {
    for (int64_t i = 0; i < count; i += TILE_COLUMNS, to += TILE_COLUMNS * width) {
        const int64_t tokens = count - i < TILE_COLUMNS ? count - i : TILE_COLUMNS;
        if (tokens < TILE_COLUMNS) memset(to, 0, TILE_COLUMNS * width * sizeof *to);
        transpose(hidden + i * width, width, tokens, width, to, TILE_COLUMNS);
    }
}

static void score_block(const Head *h, int64_t block) {
    const int64_t v = block_start(h, block), rows = block_start(h, block + 1) - v, n = h->columns;
    float *logits = h->logits + v * n, *most = h->most + block * n;
    multiply_panels(rows, n, h->width, h->head + v * h->width, h->width, 0, h->turned, TILE_COLUMNS, TILE_COLUMNS * h->width, logits, n,
                    0);
    memcpy(most, logits, n * sizeof *most);
    for (int64_t r = 1; r < rows; r++)
        for (int64_t i = 0; i < n; i += W) {
            const vf l = load(logits + r * n + i), m = load(most + i);
            store(most + i, larger(l, m));
        }
    for (int64_t i = 0; i < h->count; i++)
        if (learned(h, i) && h->targets[h->start + i] >= v && h->targets[h->start + i] < v + rows)
            h->found[i] = logits[(h->targets[h->start + i] - v) * n + i];
}

static void raise_block(const Head *h, int64_t block) {
    const int64_t v = block_start(h, block), rows = block_start(h, block + 1) - v, n = h->columns;
    float *logits = h->logits + v * n, *sums = h->sums + block * n;
    memset(sums, 0, n * sizeof *sums);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i += W) {
            const vf e = exp_v(load(logits + r * n + i) - load(h->greatest + i));
            store(sums + i, load(sums + i) + e);
            store(logits + r * n + i, e);
        }
}

static void greatest_of(const Head *h, int64_t token) {
    float greatest = h->most[token];
    for (int64_t b = 1; b < h->blocks; b++) greatest = h->most[b * h->columns + token] > greatest ? h->most[b * h->columns + token] : greatest;
    h->greatest[token] = greatest;
}

/* The loss of a token, the factor that makes slopes of its raised logits, and its hidden state times that. */
static void settle(const Head *h, int64_t token) {
    double total = 0;
    for (int64_t b = 0; b < h->blocks; b++) total += h->sums[b * h->columns + token];
    const int counts = learned(h, token);
    const float factor = h->factors[token] = counts ? (float)(h->scale / total) : 0.0f;
    h->losses[h->start + token] = counts ? log(total) + h->greatest[token] - h->found[token] : 0.0;
    const float *hidden = h->hidden + (h->start + token) * h->width;
    for (int64_t i = 0; i < h->width; i += W) store(h->scaled + token * h->width + i, load(hidden + i) * factor);
}

static void add_scaled(float *to, const float *from, float by, int64_t count) {
    for (int64_t i = 0; i < count; i += W) store(to + i, load(to + i) + load(from + i) * by);
}

static void head_slope(const Head *h, int64_t block) {
    const int64_t v = block_start(h, block), rows = block_start(h, block + 1) - v;
    multiply(rows, h->width, h->count, h->logits + v * h->columns, h->columns, 0, h->scaled, h->width, h->grad_head + v * h->width,
             h->width, h->start > 0);
    for (int64_t i = 0; i < h->count; i++) {
        const int64_t target = h->targets[h->start + i];
        if (learned(h, i) && target >= v && target < v + rows)
            add_scaled(h->grad_head + target * h->width, h->hidden + (h->start + i) * h->width, -h->scale, h->width);
    }
}

static void hidden_slope(const Head *h, int64_t from, int64_t to) {
    float *grad = h->grad_hidden + (h->start + from) * h->width;
    multiply(to - from, h->width, h->size, h->logits + from, h->columns, 1, h->head, h->width, grad, h->width, 0);
    for (int64_t i = from; i < to; i++, grad += h->width) {
        for (int64_t c = 0; c < h->width; c += W) store(grad + c, load(grad + c) * h->factors[i]);
        if (learned(h, i)) add_scaled(grad, h->head + h->targets[h->start + i] * h->width, -h->scale, h->width);
    }
}

static void head_chunk(void *what, Team *team, int thread) {
    const Head *h = what;
    const int64_t first = share(h->blocks, thread, team->threads), last = share(h->blocks, thread + 1, team->threads);
    const int64_t from = share(h->count, thread, team->threads), to = share(h->count, thread + 1, team->threads);
    for (int64_t b = first; b < last; b++) score_block(h, b);
    barrier(team);
    for (int64_t i = share(h->columns, thread, team->threads); i < share(h->columns, thread + 1, team->threads); i++) greatest_of(h, i);
    barrier(team);
    for (int64_t b = first; b < last; b++) raise_block(h, b);
    barrier(team);
    for (int64_t i = from; i < to; i++) settle(h, i);
    barrier(team);
    for (int64_t b = first; b < last; b++) head_slope(h, b);
    if (h->grad_hidden && to > from) hidden_slope(h, from, to);
}

/* ---- a head that is not learned ---- */

/* Its slopes are not wanted, so nothing has to wait for the sums: each block of the vocabulary is scored, raised, multiplied with the
   same rows of the head, and forgotten. What was added up is scaled where a greater logit comes (as in arXiv:2205.14135). */
#define MOST_TOKENS 256 /* that a thread takes through the vocabulary together */
#define LEAST_TOKENS 64 /* fewer are not worth reading the head for */

typedef struct {
    const Head *h;
    int64_t items, room;
    atomic_int taken;
} Passing;

typedef struct {
    const Head *h;
    int64_t start, count, columns;
    float *turned, *logits, *most, *sums, *found, *factors;
} Passage;

static int64_t passing_items(const Head *h, int threads) {
    const int64_t least = (h->rows + MOST_TOKENS - 1) / MOST_TOKENS, most = (h->rows + LEAST_TOKENS - 1) / LEAST_TOKENS;
    const int64_t even = rounded_up(least, threads);
    return even < most ? even : most;
}

static int64_t passing_room(const Head *h, int64_t items) {
    const int64_t columns = rounded_up((h->rows + items - 1) / items, TILE_COLUMNS);
    return rounded_up(columns * (h->width + ITEM_ROWS + 4), 16);
}

static void begin_passage(Passage *p, float *room) {
    const int64_t n = p->columns, width = p->h->width;
    p->turned = room, p->logits = p->turned + n * width, p->most = p->logits + n * ITEM_ROWS;
    p->sums = p->most + n, p->found = p->sums + n, p->factors = p->found + n;
    turn(p->h->hidden + p->start * width, p->count, width, p->turned);
    for (int64_t i = 0; i < n; i++) p->most[i] = -INFINITY, p->sums[i] = p->found[i] = 0;
}

static int64_t target_of(const Passage *p, int64_t token) {
    const int64_t target = p->h->targets[p->start + token];
    return target == p->h->ignored || target < 0 || target >= p->h->size ? -1 : target;
}

/* Scores become powers of e, less the greatest logit so far; `factors` say what it makes of earlier sums. */
static void raise_passing(const Passage *p, int64_t rows) {
    const int64_t n = p->columns;
    for (int64_t i = 0; i < n; i += W) {
        const vf before = load(p->most + i);
        vf most = before, total = {0};
        for (int64_t r = 0; r < rows; r++) most = larger(load(p->logits + r * n + i), most);
        for (int64_t r = 0; r < rows; r++) {
            const vf e = exp_v(load(p->logits + r * n + i) - most);
            total += e;
            store(p->logits + r * n + i, e);
        }
        const vf factor = exp_v(before - most);
        store(p->most + i, most);
        store(p->factors + i, factor);
        store(p->sums + i, load(p->sums + i) * factor + total);
    }
}

static void pass_block(const Passage *p, int64_t v, int64_t rows) {
    const Head *h = p->h;
    const int64_t n = p->columns, width = h->width;
    const float *head = h->head + v * width;
    multiply_panels(rows, n, width, head, width, 0, p->turned, TILE_COLUMNS, TILE_COLUMNS * width, p->logits, n, 0);
    for (int64_t i = 0; i < p->count; i++) {
        const int64_t row = target_of(p, i) - v;
        if (row >= 0 && row < rows) p->found[i] = p->logits[row * n + i];
    }
    raise_passing(p, rows);
    if (!h->grad_hidden) return;
    float *grad = h->grad_hidden + p->start * width;
    for (int64_t i = 0; v > 0 && i < p->count; i++)
        if (p->factors[i] != 1.0f) scale_row(grad + i * width, p->factors[i], width);
    multiply(p->count, width, rows, p->logits, n, 1, head, width, grad, width, v > 0);
}

static void end_passage(const Passage *p) {
    const Head *h = p->h;
    for (int64_t i = 0; i < p->count; i++) {
        const int64_t target = target_of(p, i), width = h->width;
        h->losses[p->start + i] = target < 0 ? 0.0 : log((double)p->sums[i]) + p->most[i] - p->found[i];
        if (!h->grad_hidden) continue;
        float *grad = h->grad_hidden + (p->start + i) * width;
        if (target < 0) {
            memset(grad, 0, width * sizeof *grad);
            continue;
        }
        scale_row(grad, h->scale / p->sums[i], width);
        add_scaled(grad, h->head + target * width, -h->scale, width);
    }
}

static void pass_head(void *what, Team *team, int thread) {
    Passing *now = what;
    const Head *h = now->h;
    const int64_t blocks = blocks_of(h->size);
    (void)team;
    for (int64_t i; (i = atomic_fetch_add(&now->taken, 1)) < now->items;) {
        Passage p = {.h = h, .start = i * h->rows / now->items};
        p.count = (i + 1) * h->rows / now->items - p.start, p.columns = rounded_up(p.count, TILE_COLUMNS);
        begin_passage(&p, h->room + thread * now->room);
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t v = b * h->size / blocks;
            pass_block(&p, v, (b + 1) * h->size / blocks - v);
        }
        end_passage(&p);
    }
}

/* Gives 0, or 1 where there was no room. */
static int64_t pass_frozen_head(Head *h, int64_t threads) {
    const int team = threads_for(h->rows * h->size, threads < MOST_THREADS ? threads : MOST_THREADS);
    Passing now = {.h = h, .items = passing_items(h, team)};
    now.room = passing_room(h, now.items);
    h->room = aligned_alloc(64, team * now.room * sizeof(float));
    if (!h->room) return 1;
    run_team(pass_head, &now, team);
    free(h->room);
    return 0;
}

/* losses [rows] = the cross-entropy, nats, of softmax(hidden head') against each target, 0 where it is `ignored`; and `scale` times
   the slopes of their sum, where wanted. Gives how many targets are neither ignored nor of the vocabulary, or -1 for want of room. */
int64_t dunwu_head(Head *h, int64_t threads) {
    int64_t strange = 0;
    for (int64_t r = 0; r < h->rows; r++) strange += h->targets[r] != h->ignored && (h->targets[r] < 0 || h->targets[r] >= h->size);
    if (!h->rows) return 0;
    if (!h->grad_head) return pass_frozen_head(h, threads) ? -1 : strange;
    h->room = aligned_alloc(64, rounded_up(head_room(h), 16) * sizeof(float));
    if (!h->room) return -1;
    for (h->start = 0; h->start < h->rows; h->start += h->chunk) {
        h->count = h->chunk < h->rows - h->start ? h->chunk : h->rows - h->start;
        lay_out(h);
        turn(h->hidden + h->start * h->width, h->count, h->width, h->turned);
        run_team(head_chunk, h, threads_for(h->count * h->size, threads));
    }
    free(h->room);
    return strange;
}
