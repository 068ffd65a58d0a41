/* One pass of a decoder's layers: norms, products, rotary positions, paged attention, gated MLPs.

   The residual stream x [rows, width] goes through `parts`, each an attention or an MLP with its norms; between the phases of a
   part the team waits for one another. A phase is cut into items, outputs of a matrix for at most PANEL rows, of which each thread has
   a share and helps others with theirs; rows of attention are taken as they come. */
#include "attention.h"
#include "head.h"

#define AHEAD (256 << 10) /* bytes fetched while waiting: a part of the second cache */

/* ---- the phases of a part ---- */

/* What a thread works with. Rows are normalised in `x`, and rounded in `room`: its own where rows are few, else everyone's. */
typedef struct {
    const Step *s;
    Team *team;
    int thread, many;
    int64_t from, to; /* the rows that it prepares */
    float *x;
    Rows room;
    Asking asking;
} Own;

/* Where things lie in the scratch: q, k and v of each row, what goes into the last product, what comes out of it, and
   normalised rows. */
static float *firsts(const Step *s) { return s->scratch; }
static float *inner(const Step *s) { return s->scratch + s->rows * s->wide; }
static float *outer(const Step *s) { return inner(s) + s->rows * s->wide; }
static float *normal(const Step *s, int place) { return outer(s) + s->rows * s->width * (1 + place); }

int64_t dunwu_scratch_floats(int64_t rows, int64_t width, int64_t wide, int64_t threads) {
    return rows * (2 * wide + (1 + (rows > FEW ? 1 : threads)) * width) + 64;
}

/* Wait for all, and meanwhile fetch what this thread will multiply with first. */
static void wait_before(const Own *own, const Matrix *m, const Cut *cut) {
    const int64_t start = share_of(cut->items, own->team->threads, own->thread) / cut->panels * cut->size;
    if (own->many || start >= m->outputs) barrier(own->team);
    else {
        const int64_t bytes = (m->outputs - start) * row_bytes(m);
        barrier_before(own->team, (const char *)m->weights + start * row_bytes(m), bytes < AHEAD ? bytes : AHEAD);
    }
}

/* Normalised rows of the stream, ready for products with these matrices. */
static Rows normalised(const Norm *norm, const Matrix *matrices, int count, const Own *own) {
    const int64_t width = own->s->width;
    for (int64_t r = own->from; r < own->to; r++) normalise(norm, own->s->x + r * width, own->x + r * width, width);
    const Rows x = rows_for(matrices, count, own->x, width, own->from, own->to, &own->room);
    if (own->many) barrier(own->team);
    return x;
}

static Cut cut_first(const Own *own, const Part *p) {
    const int64_t all = p->first[0].outputs + p->first[1].outputs + p->first[2].outputs;
    return cut_for(p->kind == ATTENTION ? all : p->first[1].outputs, own->s->rows);
}

static Cut cut_last(const Own *own, const Part *p) { return cut_for(p->last.outputs, own->s->rows); }

static void query_key_value(const Part *p, Share *shares, const Own *own) {
    const Step *s = own->s;
    const Rows x = normalised(&p->before, p->first, 3, own);
    const Cut cut = cut_first(own, p);
    int64_t start, end, row, rows;
    while (next_outputs(&cut, shares, own->team, own->thread, s->rows, &start, &end, &row, &rows)) {
        for (int64_t j = 0, before = 0; j < 3; before += p->first[j++].outputs) {
            const int64_t from = start > before ? start : before, all = before + p->first[j].outputs, to = end < all ? end : all;
            if (from < to) product(p->first + j, from - before, to - before, &x, row, rows, firsts(s) + row * cut.outputs + from, cut.outputs);
        }
    }
}

static void attend_all(const Part *p, Share *shares, Own *own) {
    const Step *s = own->s;
    int64_t C = s->head_dim, wide = (s->heads + 2 * s->kv_heads) * C;
    if (p->norm_all) {
        for (int64_t r = own->thread; r < s->rows; r += own->team->threads) {
            float *q = firsts(s) + r * wide;
            normalise(&p->q_norm, q, q, s->heads * C);
            normalise(&p->k_norm, q + s->heads * C, q + s->heads * C, s->kv_heads * C);
        }
        barrier(own->team);
    }
    if (s->chunked) {
        for (int64_t i = own->thread; i < s->rows * s->kv_heads; i += own->team->threads)
            enter_row(s, p, i / s->kv_heads, i % s->kv_heads, firsts(s) + i / s->kv_heads * wide);
        barrier(own->team);
    }
    for (int64_t i; (i = take_next(shares, s->together_count * s->kv_heads)) >= 0;) {
        const int64_t kv = i % s->kv_heads, row = s->together[i / s->kv_heads * 2], rows = s->together[i / s->kv_heads * 2 + 1];
        float *qkv = firsts(s) + row * wide;
        if (!s->chunked) enter_row(s, p, row, kv, qkv);
        attend(s, p, row, rows, kv, qkv, wide, inner(s) + row * s->heads * C, &own->asking);
    }
}

static void gate_and_up(const Part *p, Share *shares, const Own *own) {
    const Step *s = own->s;
    const Matrix *gate = &p->first[0], *up = &p->first[1];
    const Rows x = normalised(&p->before, p->first, 2, own);
    const Cut cut = cut_first(own, p);
    const int64_t ld = up->outputs;
    float gates[CHUNK * PANEL];
    int64_t start, end, row, rows;
    while (next_outputs(&cut, shares, own->team, own->thread, s->rows, &start, &end, &row, &rows)) {
        const int64_t size = end - start;
        float *to = inner(s) + row * ld + start;
        product(up, start, end, &x, row, rows, to, ld);
        if (gate->outputs) product(gate, start, end, &x, row, rows, gates, size);
        for (int64_t r = 0; r < rows; r++) {
            float *own_up = to + r * ld, *own_gate = gates + r * size;
            activate(p->activation, gate->outputs ? own_gate : own_up, size);
            if (gate->outputs)
                for (int64_t o = 0; o < size; o++) own_up[o] *= own_gate[o];
        }
    }
}

/* x += norm(last product of what is inside). */
static void back_to_the_stream(const Part *p, Share *shares, const Own *own) {
    const Step *s = own->s;
    const Matrix *m = &p->last;
    const Rows x = rows_for(m, 1, inner(s), m->inputs, own->from, own->to, &own->room);
    const Cut cut = cut_last(own, p);
    int64_t start, end, row, rows;
    if (own->many && x.numbers) barrier(own->team);
    while (next_outputs(&cut, shares, own->team, own->thread, s->rows, &start, &end, &row, &rows)) {
        float *out = outer(s) + row * s->width + start, *to = s->x + row * s->width + start;
        product(m, start, end, &x, row, rows, out, s->width);
        if (p->after.kind != NO_NORM) continue;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t o = 0; o < end - start; o++) to[r * s->width + o] += out[r * s->width + o];
    }
    if (p->after.kind == NO_NORM) return;
    barrier(own->team);
    for (int64_t r = own->thread; r < s->rows; r += own->team->threads) {
        float *out = outer(s) + r * s->width;
        normalise(&p->after, out, out, s->width);
        for (int64_t o = 0; o < s->width; o++) s->x[r * s->width + o] += out[o];
    }
}

typedef struct {
    const Step *step;
    Rows room; /* where all threads round many rows */
} Pass;

/* A row of x is what stands for its token. */
static void embed(const Step *s, int64_t row) {
    const Matrix *m = s->embedding;
    const int64_t at = s->ids[row] * s->width;
    float *x = s->x + row * s->width;
    if (m->kind == FLOAT32) memcpy(x, (const float *)m->weights + at, s->width * sizeof *x);
    else
        for (int64_t i = 0; i < s->width; i++) x[i] = (float)((const int8_t *)m->weights)[at + i] * m->scales[s->ids[row]];
    if (s->embedding_scale != 1.0f)
        for (int64_t i = 0; i < s->width; i++) x[i] *= s->embedding_scale;
}

static int64_t widest(const Step *s) { return s->wide > s->width ? s->wide : s->width; }

static void go_through(void *pass_, Team *team, int thread) {
    const Pass *pass = pass_;
    const Step *s = pass->step;
    const int many = s->rows > FEW;
    Own own = {.s = s, .team = team, .thread = thread, .many = many, .x = normal(s, many ? 0 : thread), .room = pass->room};
    own.from = many ? s->rows * thread / team->threads : 0;
    own.to = many ? s->rows * (thread + 1) / team->threads : s->rows;
    if (!many) make_room(&own.room, s->rows, widest(s));
    if (s->ids) {
        for (int64_t r = thread; r < s->rows; r += team->threads) embed(s, r);
        barrier(team);
    }
    for (int64_t i = 0; i < s->part_count; i++) {
        const Part *p = s->parts + i, *next = i + 1 < s->part_count ? p + 1 : 0;
        Share *shares = s->shares + 3 * i * s->threads;
        if (p->kind == ATTENTION) {
            query_key_value(p, shares, &own);
            barrier(team);
            attend_all(p, shares + s->threads, &own);
        } else {
            gate_and_up(p, shares, &own);
        }
        const Cut last = cut_last(&own, p);
        wait_before(&own, &p->last, &last);
        back_to_the_stream(p, shares + 2 * s->threads, &own);
        if (!next) break;
        const Cut first = cut_first(&own, next);
        wait_before(&own, &next->first[next->kind == MLP], &first);
    }
    if (!many) free(own.room.numbers);
    if (!s->norm) return;
    barrier(team);
    for (int64_t r = thread; r < s->rows; r += team->threads) normalise(s->norm, s->x + r * s->width, s->x + r * s->width, s->width);
}

/* x [rows, size], normalised in place. */
void dunwu_normalise(const Norm *norm, float *x, int64_t rows, int64_t size) {
    for (int64_t r = 0; r < rows; r++) normalise(norm, x + r * size, x + r * size, size);
}

/* Take x through all parts. */
void dunwu_step(const Step *step) {
    Pass pass = {.step = step};
    memset(step->shares, 0, 3 * step->part_count * step->threads * sizeof *step->shares);
    if (step->rows > FEW) make_room(&pass.room, step->rows, widest(step));
    run_team(go_through, &pass, (int)step->threads);
    free(pass.room.numbers);
}

/* How the likeliest tokens are chosen: the head, its sieve or null with room for it, ids that are never chosen or null, and those
   after which a text may end. */
typedef struct {
    const Matrix *head;
    Sieve *sieve;
    float *most;
    const uint8_t *barred;
    const int64_t *stops;
    int64_t stop_count;
} Choosing;

static int among(int64_t id, const int64_t *ids, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (ids[i] == id) return 1;
    return 0;
}

/* Up to `count` passes in which each row reads the token that it chose in the one before. `step` tells of the first, but `slot`
   [count, rows] of all, and `runs` reach behind the last; `ids` and `seen` are changed. written [count, rows]: what is chosen. Gives
   after how many passes it ended: earlier where some row chose a stop, or had nothing to choose, which is not counted; x is then what
   it had. */
int64_t dunwu_write(Step *step, const Choosing *choosing, int64_t count, int64_t *written) {
    int64_t *ids = (int64_t *)step->ids, *seen = (int64_t *)step->seen;
    for (int64_t done = 0; done < count; done++, written += step->rows, step->slot += step->rows) {
        dunwu_step(step);
        dunwu_likeliest(choosing->head, choosing->sieve, choosing->most, step->x, step->width, step->rows, choosing->barred, written,
                        step->threads);
        int ends = 0;
        for (int64_t r = 0; r < step->rows; r++) {
            if (written[r] < 0) return done;
            ends |= among(written[r], choosing->stops, choosing->stop_count);
            ids[r] = written[r], seen[r]++;
        }
        if (ends) return done + 1;
    }
    return count;
}
