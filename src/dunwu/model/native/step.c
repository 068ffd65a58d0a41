/* One pass of a decoder's layers: norms, products, rotary positions, paged attention, gated MLPs.

   The residual stream x [rows, width] goes through `parts`, each an attention or an MLP with its norms; between the phases of a
   part the team waits for one another. A phase is cut into items that threads take as they come: outputs of a matrix, of at most
   PANEL rows, or rows of attention. */
#include "attention.h"

#define CHUNK 48  /* outputs that a thread takes at a time */
#define PANEL 128 /* and rows, where there are more */
#define LONGEST (CHUNK * PANEL / MOST_R)
#define AHEAD (256 << 10) /* bytes fetched while waiting: a part of the second cache */
#define FEW 16    /* rows that every thread normalises for itself: that costs less than waiting */

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

static int64_t panels_of(int64_t rows) { return (rows + PANEL - 1) / PANEL; }

/* Rows of panel `number`, all nearly alike. */
static int64_t panel(int64_t rows, int64_t number, int64_t *first) {
    const int64_t panels = panels_of(rows), size = ((rows + panels - 1) / panels + MOST_R - 1) / MOST_R * MOST_R;
    *first = number * size < rows ? number * size : rows;
    return rows - *first < size ? rows - *first : size;
}

/* How the outputs of a phase are cut: few rows read the weights once, so that a long piece for each thread comes first, which the
   processor foresees, and then short ones for whoever is free. */
typedef struct {
    int64_t outputs, first, size, panels, threads;
} Cut;

static Cut cut_for(int64_t outputs, int64_t rows, int64_t threads) {
    const int few = rows <= MOST_R;
    const int64_t first = few ? outputs / 2 / threads / CHUNK * CHUNK : 0, size = !few ? CHUNK : outputs < 4096 ? CHUNK / 2 : 4 * CHUNK;
    return (Cut){outputs, first < LONGEST ? first : LONGEST, size, panels_of(rows), threads};
}

/* Outputs `*start` to `*end` of item `number`, and its panel; whether there is any. */
static int item_of(const Cut *cut, int64_t number, int64_t *start, int64_t *end, int64_t *panel) {
    const int64_t long_ones = cut->first ? cut->threads : 0;
    *panel = number % cut->panels, number /= cut->panels;
    const int64_t size = number < long_ones ? cut->first : cut->size;
    *start = number < long_ones ? number * size : long_ones * cut->first + (number - long_ones) * size;
    *end = *start + size < cut->outputs ? *start + size : cut->outputs;
    return *start < cut->outputs;
}

/* Wait for all, and meanwhile fetch what this thread will multiply with first. */
static void wait_before(const Own *own, const Matrix *m, const Cut *cut) {
    int64_t start, end, panel;
    if (own->many || !item_of(cut, own->thread, &start, &end, &panel) || start >= m->outputs) barrier(own->team);
    else {
        const int64_t bytes = (end - start) * row_bytes(m);
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
    return cut_for(p->kind == ATTENTION ? all : p->first[1].outputs, own->s->rows, own->team->threads);
}

static Cut cut_last(const Own *own, const Part *p) { return cut_for(p->last.outputs, own->s->rows, own->team->threads); }

static void query_key_value(const Part *p, atomic_int *taken, const Own *own) {
    const Step *s = own->s;
    const Rows x = normalised(&p->before, p->first, 3, own);
    const Cut cut = cut_first(own, p);
    int64_t start, end, number, row;
    for (int64_t i = own->thread; item_of(&cut, i, &start, &end, &number); i = next_item(own->team, taken)) {
        const int64_t rows = panel(s->rows, number, &row);
        for (int64_t j = 0, before = 0; j < 3; before += p->first[j++].outputs) {
            const int64_t from = start > before ? start : before, all = before + p->first[j].outputs, to = end < all ? end : all;
            if (from < to) product(p->first + j, from - before, to - before, &x, row, rows, firsts(s) + row * cut.outputs + from, cut.outputs);
        }
    }
}

static void attend_all(const Part *p, atomic_int *taken, Own *own) {
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
    for (int64_t i = own->thread; i < s->together_count * s->kv_heads; i = next_item(own->team, taken)) {
        const int64_t kv = i % s->kv_heads, row = s->together[i / s->kv_heads * 2], rows = s->together[i / s->kv_heads * 2 + 1];
        float *qkv = firsts(s) + row * wide;
        if (!s->chunked) enter_row(s, p, row, kv, qkv);
        attend(s, p, row, rows, kv, qkv, wide, inner(s) + row * s->heads * C, &own->asking);
    }
}

static void gate_and_up(const Part *p, atomic_int *taken, const Own *own) {
    const Step *s = own->s;
    const Matrix *gate = &p->first[0], *up = &p->first[1];
    const Rows x = normalised(&p->before, p->first, 2, own);
    const Cut cut = cut_first(own, p);
    const int64_t ld = up->outputs;
    float gates[CHUNK * PANEL];
    int64_t start, end, number, row;
    for (int64_t i = own->thread; item_of(&cut, i, &start, &end, &number); i = next_item(own->team, taken)) {
        const int64_t rows = panel(s->rows, number, &row), size = end - start;
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
static void back_to_the_stream(const Part *p, atomic_int *taken, const Own *own) {
    const Step *s = own->s;
    const Matrix *m = &p->last;
    const Rows x = rows_for(m, 1, inner(s), m->inputs, own->from, own->to, &own->room);
    const Cut cut = cut_last(own, p);
    int64_t start, end, number, row;
    if (own->many && x.numbers) barrier(own->team);
    for (int64_t i = own->thread; item_of(&cut, i, &start, &end, &number); i = next_item(own->team, taken)) {
        const int64_t rows = panel(s->rows, number, &row);
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
        atomic_int *taken = s->taken + 3 * i;
        if (p->kind == ATTENTION) {
            query_key_value(p, taken, &own);
            barrier(team);
            attend_all(p, taken + 1, &own);
        } else {
            gate_and_up(p, taken, &own);
        }
        const Cut last = cut_last(&own, p);
        wait_before(&own, &p->last, &last);
        back_to_the_stream(p, taken + 2, &own);
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
    for (int64_t i = 0; i < 3 * step->part_count; i++) atomic_store_explicit(step->taken + i, 0, memory_order_relaxed);
    if (step->rows > FEW) make_room(&pass.room, step->rows, widest(step));
    run_team(go_through, &pass, (int)step->threads);
    free(pass.room.numbers);
}

/* The greatest output of a row so far, and which it is; NaN is greater than all. */
typedef struct {
    float value;
    int32_t number;
} Best;

typedef struct {
    const Matrix *matrix;
    const float *x;
    float *out; /* or null: only the greatest are wanted */
    const uint8_t *barred;
    Best *best; /* [threads, rows] */
    int64_t rows, ldx;
    Rows room;
    atomic_int taken;
} Product;

/* Outputs `start` to `end` of a row, against the greatest before; of equals the first stays. */
static void look_for_best(const float *out, int64_t start, int64_t end, const uint8_t *barred, Best *best) {
    const int64_t count = end - start;
    int64_t i = 0;
    vf greatest = all(best->value), odd = {0};
    for (; i + W <= count; i += W) {
        const vf v = load(out + i);
        greatest = pick(v > greatest, v, greatest);
        odd += v * 0.0f;
    }
    int any = !(sum(odd) == 0.0f); /* not finite somewhere */
    for (int l = 0; l < W; l++) any |= greatest[l] > best->value;
    for (i = any ? 0 : i; i < count; i++) {
        const int better = out[i] > best->value || best->number < 0 || (out[i] != out[i] && best->value == best->value);
        if (better && !(barred && barred[start + i])) *best = (Best){out[i], (int32_t)(start + i)};
    }
}

static void multiply(void *what, Team *team, int thread) {
    Product *p = what;
    const int many = p->rows > FEW;
    const Cut cut = cut_for(p->matrix->outputs, p->rows, team->threads);
    const int64_t from = many ? p->rows * thread / team->threads : 0, to = many ? p->rows * (thread + 1) / team->threads : p->rows;
    Rows room = p->room;
    if (!many) make_room(&room, p->rows, p->matrix->inputs);
    const Rows x = rows_for(p->matrix, 1, p->x, p->ldx, from, to, &room);
    if (many && x.numbers) barrier(team);
    Best *best = p->out ? 0 : p->best + thread * p->rows;
    float found[CHUNK * PANEL];
    int64_t start, end, number, row;
    for (int64_t i = thread; item_of(&cut, i, &start, &end, &number); i = next_item(team, &p->taken)) {
        const int64_t rows = panel(p->rows, number, &row);
        if (p->out) product(p->matrix, start, end, &x, row, rows, p->out + row * cut.outputs + start, cut.outputs);
        else {
            product(p->matrix, start, end, &x, row, rows, found, end - start);
            for (int64_t r = 0; r < rows; r++) look_for_best(found + r * (end - start), start, end, p->barred, best + row + r);
        }
    }
    if (!many) free(room.numbers);
}

static void run_product(Product *p, int64_t threads) {
    if (p->rows > FEW) make_room(&p->room, p->rows, p->matrix->inputs);
    run_team(multiply, p, (int)threads);
    free(p->room.numbers);
}

/* out [rows, outputs] = x [rows, inputs] times the matrix. */
void dunwu_product(const Matrix *matrix, const float *x, int64_t ldx, int64_t rows, float *out, int64_t threads) {
    Product p = {.matrix = matrix, .x = x, .out = out, .rows = rows, .ldx = ldx};
    run_product(&p, threads);
}

/* Which output of each row is the greatest, the first of equals; those that `barred` [outputs], if any, has are passed over. -1
   where it is not finite. */
void dunwu_likeliest(const Matrix *matrix, const float *x, int64_t ldx, int64_t rows, const uint8_t *barred, int64_t *likeliest,
                     int64_t threads) {
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    Product p = {.matrix = matrix, .x = x, .barred = barred, .rows = rows, .ldx = ldx};
    for (int64_t r = 0; r < rows; r++) likeliest[r] = -1;
    p.best = malloc((size_t)(threads * rows) * sizeof *p.best);
    if (!p.best) return;
    for (int64_t i = 0; i < threads * rows; i++) p.best[i] = (Best){-INFINITY, -1};
    run_product(&p, threads);
    for (int64_t r = 0; r < rows; r++) {
        Best most = {-INFINITY, -1};
        for (int64_t t = 0; t < threads; t++) {
            const Best b = p.best[t * rows + r];
            const int first = most.number < 0 || b.number < most.number;
            if (b.number < 0) continue;
            if (most.number < 0 || b.value != b.value || b.value > most.value || (b.value == most.value && first)) most = b;
        }
        if (most.number >= 0 && most.value - most.value == 0.0f) likeliest[r] = most.number;
    }
    free(p.best);
}
