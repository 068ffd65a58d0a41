/* The head of a model: products with every output of a matrix, and which output is the greatest.

   The greatest of many outputs of floats is found by a sieve: the matrix rounded to bytes, a quarter of what there is to read, and
   how far each output can be from what the bytes give (Cauchy-Schwarz). Only those that may be the greatest are computed as they
   are. What is found is what reading all of the matrix finds, bit for bit. */
#ifndef DUNWU_HEAD_H
#define DUNWU_HEAD_H

#include "cutting.h"

/* The greatest output of a row so far, and which it is; NaN is greater than all. */
typedef struct {
    float value;
    int32_t number;
} Best;

typedef struct {
    Matrix bytes;       /* whole numbers of 8 bits, a scale for each output, and no bias */
    float *slack, *size; /* [outputs]: how far an output of a row of length 1 can be from the bytes', and how long the bytes are */
    int64_t rows, computed; /* how many rows were sieved, and how many outputs were computed for them */
} Sieve;

typedef struct {
    const Matrix *matrix;
    const float *x;
    float *out; /* or null: only the greatest are wanted */
    const uint8_t *barred;
    Best *best; /* [threads, rows] */
    int64_t rows, ldx;
    Rows room;
    Share shares[MOST_THREADS];
    const Sieve *sieve;
    atomic_llong computed;
    float *most;  /* [FEW, outputs]: what each output can be at most */
    float *least; /* [threads, rows]: what the greatest is at least */
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
    int any = !(sum(odd) == 0.0f);            /* not finite somewhere */
    const int earlier = start < best->number; /* outputs need not come in order */
    for (int l = 0; l < W; l++) any |= greatest[l] > best->value || (earlier && greatest[l] == best->value);
    for (i = any ? 0 : i; i < count; i++) {
        const int better = out[i] > best->value || best->number < 0 || (out[i] != out[i] && best->value == best->value) ||
                           (out[i] == best->value && start + i < best->number);
        if (better && !(barred && barred[start + i])) *best = (Best){out[i], (int32_t)(start + i)};
    }
}

static void multiply(void *what, Team *team, int thread) {
    Product *p = what;
    const int many = p->rows > FEW;
    const Cut cut = cut_for(p->matrix->outputs, p->rows);
    const int64_t from = many ? p->rows * thread / team->threads : 0, to = many ? p->rows * (thread + 1) / team->threads : p->rows;
    Rows room = p->room;
    if (!many) make_room(&room, p->rows, p->matrix->inputs);
    const Rows x = rows_for(p->matrix, 1, p->x, p->ldx, from, to, &room);
    if (many && x.numbers) barrier(team);
    Best *best = p->out ? 0 : p->best + thread * p->rows;
    float found[CHUNK * PANEL];
    int64_t start, end, row, rows;
    while (next_outputs(&cut, p->shares, team, thread, p->rows, &start, &end, &row, &rows)) {
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

/* What all threads found together; -1 where it is not finite. */
static void best_of_all(const Product *p, int64_t threads, int64_t *likeliest) {
    for (int64_t r = 0; r < p->rows; r++) {
        Best most = {-INFINITY, -1};
        for (int64_t t = 0; t < threads; t++) {
            const Best b = p->best[t * p->rows + r];
            const int first = most.number < 0 || b.number < most.number;
            if (b.number < 0) continue;
            if (most.number < 0 || b.value != b.value || b.value > most.value || (b.value == most.value && first)) most = b;
        }
        likeliest[r] = most.number >= 0 && most.value - most.value == 0.0f ? most.number : -1;
    }
}

/* Room for what each thread finds; null where there is none. */
static Best *nothing_found(int64_t count) {
    Best *best = malloc((size_t)count * sizeof *best);
    for (int64_t i = 0; best && i < count; i++) best[i] = (Best){-INFINITY, -1};
    return best;
}

/* ---- the sieve ---- */

#define UNIT 6e-8f    /* of rounding: 2^-24 */
#define UPWARD 1.001f /* over what rounding takes from a sum of squares */
#define TOO_GREAT 1e15f    /* products of greater numbers may overflow */
#define TOO_SMALL 1e-37f   /* products of smaller ones lose their digits */

/* How far a sum of `inputs` products of floats can be from its value, over the lengths of its factors: both sums of an output. */
INLINE float of_rounding(int64_t inputs) { return UNIT * (float)(inputs / 4 + 128); }

typedef struct {
    const Matrix *matrix;
    const Sieve *sieve;
} Making;

static void round_outputs(void *what, Team *team, int thread) {
    const Making *making = what;
    const Sieve *sieve = making->sieve;
    const int64_t outputs = making->matrix->outputs, inputs = making->matrix->inputs;
    for (int64_t o = outputs * thread / team->threads; o < outputs * (thread + 1) / team->threads; o++) {
        const float *w = (const float *)making->matrix->weights + o * inputs;
        int8_t *to = (int8_t *)sieve->bytes.weights + o * inputs;
        float greatest = 0, odd = 0, apart = 0, size = 0;
        for (int64_t i = 0; i < inputs; i++) greatest = fabsf(w[i]) > greatest ? fabsf(w[i]) : greatest, odd += w[i] * 0.0f;
        const int told = greatest > 1e-30f && greatest < TOO_GREAT && odd == 0.0f;
        const float inverse = told ? 127.0f / greatest : 0.0f;
        for (int64_t i = 0; i < inputs; i++) {
            const float times = told ? w[i] * inverse : 0.0f, whole = rintf(times), rest = times - whole;
            to[i] = (int8_t)whole, apart += rest * rest, size += whole * whole;
        }
        const float scale = greatest / 127.0f, far = sqrtf(apart) + 3e-5f * sqrtf((float)inputs);
        ((float *)sieve->bytes.scales)[o] = told ? scale : 0.0f;
        sieve->size[o] = told ? UPWARD * scale * sqrtf(size) : 0.0f;
        sieve->slack[o] = told ? UPWARD * scale * far + of_rounding(inputs) * (sieve->size[o] + scale * far)
                               : greatest == 0.0f && odd == 0.0f ? 0.0f : INFINITY; /* what bytes don't tell may be the greatest */
    }
}

/* Whether a sieve for so many inputs is faster than what it is for. */
int64_t dunwu_can_sieve(int64_t inputs) {
    const Matrix bytes = {.kind = INT8, .inputs = inputs, .group = inputs};
    return wants_rounded(&bytes);
}

/* Fill a sieve for a matrix of floats without bias, of as many outputs and inputs. */
void dunwu_make_sieve(const Matrix *matrix, const Sieve *sieve, int64_t threads) {
    Making making = {matrix, sieve};
    run_team(round_outputs, &making, (int)threads);
}

/* How long a row is, and how far it is from its rounded form. */
static void measure(const Rows *x, int64_t row, int64_t inputs, float *length, float *apart) {
    double squares = 0, scales = 0;
    for (int64_t i = 0; i < inputs; i++) squares += (double)x->x[row * x->ld + i] * x->x[row * x->ld + i];
    for (int64_t i = 0; i < inputs / SPAN; i++) scales += (double)x->scales[row * inputs / SPAN + i] * x->scales[row * inputs / SPAN + i];
    *length = UPWARD * (float)sqrt(squares);
    *apart = 0.51f * UPWARD * (float)sqrt(SPAN * scales) + 1e-28f; /* half a unit of each number, or a span too small for any */
    if (!(*length < TOO_GREAT)) *apart = INFINITY;
}

/* `*least` [rows] of this thread, and `most`, from what the bytes give for outputs `start` to `end` of a row. */
static void bound(const Product *p, const float *found, int64_t start, int64_t end, float length, float apart, float *most, float *least) {
    const Sieve *sieve = p->sieve;
    vf greatest = all(*least);
    int64_t o = start;
    for (; o + W <= end; o += W) {
        const vf v = load(found + o - start), far = load(sieve->slack + o) * length + load(sieve->size + o) * apart + TOO_SMALL, low = v - far;
        store(most + o, v + far);
        greatest = pick(low > greatest, low, greatest);
    }
    for (int l = 0; l < W; l++) *least = greatest[l] > *least ? greatest[l] : *least;
    for (; o < end; o++) {
        const float v = found[o - start], far = sieve->slack[o] * length + sieve->size[o] * apart + TOO_SMALL;
        most[o] = v + far;
        *least = v - far > *least ? v - far : *least;
    }
}

/* Compute those of outputs `start` to `end` of a row that can be as great as `least`; gives how many. */
static int64_t compute_some(const Product *p, const Rows *x, int64_t row, int64_t start, int64_t end, float least, Best *best) {
    const float *most = p->most + row * p->matrix->outputs;
    int64_t count = 0;
    for (int64_t o = start; o < end;) {
        if (o + 4 * W <= end) {
            vi any = {0};
            EACH(i, 4) any |= ~(vi)(load(most + o + i * W) < all(least));
            int some = 0;
            for (int l = 0; l < W; l++) some |= any[l];
            if (!some) {
                o += 4 * W;
                continue;
            }
        }
        for (const int64_t stop = o + 4 * W < end ? o + 4 * W : end; o < stop; o++) {
            if (most[o] < least || (p->barred && p->barred[o])) continue;
            float value;
            product(p->matrix, o, o + 1, x, row, 1, &value, 1);
            look_for_best(&value, o, o + 1, 0, best);
            count++;
        }
    }
    return count;
}

static void sieve_through(void *what, Team *team, int thread) {
    Product *p = what;
    const int64_t outputs = p->matrix->outputs, inputs = p->matrix->inputs;
    const Cut cut = cut_for(outputs, p->rows);
    Rows room = {0};
    make_room(&room, p->rows, inputs);
    const Rows x = rows_for(&p->sieve->bytes, 1, p->x, p->ldx, 0, p->rows, &room), as_it_is = {.x = p->x, .ld = p->ldx};
    float length[FEW], apart[FEW], found[CHUNK * PANEL], *least = p->least + thread * p->rows;
    for (int64_t r = 0; r < p->rows; r++) {
        least[r] = -INFINITY;
        if (x.numbers) measure(&x, r, inputs, length + r, apart + r);
        else length[r] = apart[r] = INFINITY; /* no room: all are computed */
    }
    int64_t start, end, row, rows;
    while (next_outputs(&cut, p->shares, team, thread, p->rows, &start, &end, &row, &rows)) {
        const int64_t size = end - start;
        product(&p->sieve->bytes, start, end, &x, row, rows, found, size);
        for (int64_t r = 0; r < rows; r++) {
            float *of_row = found + r * size;
            for (int64_t o = 0; p->barred && o < size; o++) of_row[o] = p->barred[start + o] ? -INFINITY : of_row[o];
            bound(p, of_row, start, end, length[row + r], apart[row + r], p->most + (row + r) * outputs, least + row + r);
        }
    }
    free(room.numbers);
    barrier(team);
    int64_t count = 0;
    for (int64_t r = 0; r < p->rows; r++) {
        float at_least = -INFINITY;
        for (int t = 0; t < team->threads; t++) at_least = p->least[t * p->rows + r] > at_least ? p->least[t * p->rows + r] : at_least;
        count += compute_some(p, &as_it_is, r, outputs * thread / team->threads, outputs * (thread + 1) / team->threads, at_least,
                              p->best + thread * p->rows + r);
    }
    atomic_fetch_add(&p->computed, count);
}

/* Which output of each row is the greatest, the first of equals; those that `barred` [outputs], if any, has are passed over. -1
   where it is not finite. `sieve`: null, or made of the matrix, with `most`, room for [FEW, outputs]. */
void dunwu_likeliest(const Matrix *matrix, Sieve *sieve, float *most, const float *x, int64_t ldx, int64_t rows,
                     const uint8_t *barred, int64_t *likeliest, int64_t threads) {
    float least[MOST_THREADS * FEW];
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    for (int64_t first = 0, count = rows; first < rows; first += count) {
        if (sieve) count = rows - first < FEW ? rows - first : FEW;
        Product p = {.matrix = matrix, .x = x + first * ldx, .barred = barred, .rows = count, .ldx = ldx, .sieve = sieve, .most = most};
        p.least = least, p.best = nothing_found(threads * count);
        for (int64_t r = 0; r < count; r++) likeliest[first + r] = -1;
        if (!p.best) continue;
        if (sieve) {
            run_team(sieve_through, &p, (int)threads);
            sieve->rows += count, sieve->computed += p.computed;
        } else run_product(&p, threads);
        best_of_all(&p, threads, likeliest + first);
        free(p.best);
    }
}

#endif
