/* Paged attention: rotary positions, keys and values into the cache, and what each row finds there.

   Rows of one text that follow one another read the keys together, a part of 64 tokens at a time; where a part begins is settled
   by the token's place in its text. So a row finds the same, bit for bit, alone and beside others, and wherever its blocks lie. */
#ifndef DUNWU_ATTENTION_H
#define DUNWU_ATTENTION_H

#include "decoder.h"

#define KEYS 64     /* tokens whose scores exist at a time */
#define QUERIES 48  /* queries that share them */
#define TOGETHER 16 /* keys whose products with a query are summed at once */

static void turn(const Step *s, const Part *p, int64_t row, float *head) {
    if (p->turns == STILL) return;
    const int64_t place = (s->place ? s->place[row] : s->seen[row] - 1) * s->turned;
    const float *c = s->cos[p->table] + place, *sn = s->sin[p->table] + place;
    int64_t i = 0;
    if (p->turns == HALVES)
        for (; i + W <= s->turned; i += W) {
            const vf left = load(head + i), right = load(head + i + s->turned), cos = load(c + i), sin = load(sn + i);
            store(head + i, left * cos - right * sin);
            store(head + i + s->turned, right * cos + left * sin);
        }
    for (; i < s->turned; i++) {
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

/* Tokens of a part that lie one after another in the store. */
typedef struct {
    int64_t at;
    int count, before;
} Piece;

/* One part of a text: keys and values, as they lie or turned from bytes to floats. */
typedef struct {
    Piece pieces[KEYS];
    int piece_count, count;
    int64_t first; /* its first token's place in the text */
    float key_scales[KEYS], value_scales[KEYS];
} Stretch;

/* What is known of each query while the parts of its text pass. */
typedef struct {
    const float *q[QUERIES];
    float *out[QUERIES];
    float most[QUERIES], total[QUERIES], scores[QUERIES * KEYS + TOGETHER];
} Asking;

INLINE vf cached(const int bytes, const void *store, int64_t at) {
    return bytes ? load_bytes((const int8_t *)store + at) : load((const float *)store + at);
}

INLINE float cached_one(const int bytes, const void *store, int64_t at) {
    return bytes ? (float)((const int8_t *)store)[at] : ((const float *)store)[at];
}

/* Products of a query with N keys from slot `at` on. Keys of four vectors are read one after another, which the processor
   foresees. */
INLINE void score(const int bytes, const int N, int64_t C, const void *keys, int64_t at, const float *q, float *scores) {
    vf sums[TOGETHER];
    EACH(n, N) sums[n] = (vf){0};
    if (C == 4 * W) {
        vf query[4];
        EACH(i, 4) query[i] = load(q + i * W);
        EACH(n, N) EACH(i, 4) sums[n] += cached(bytes, keys, ((at + n) * 4 + i) * W) * query[i];
        sum_each(N, sums, scores);
        return;
    }
    int64_t c = 0;
    for (; c + W <= C; c += W) {
        vf query = load(q + c);
        if (N > 1) KEEP(query);
        EACH(n, N) sums[n] += cached(bytes, keys, (at + n) * C + c) * query;
    }
    sum_each(N, sums, scores);
    for (; c < C; c++)
        EACH(n, N) scores[n] = add_product(scores[n], cached_one(bytes, keys, (at + n) * C + c), q[c]);
}

/* Of all tokens of a part; up to TOGETHER scores behind the last are anything. `slots`: how many the store has. */
INLINE void score_all(const int bytes, int64_t C, int64_t slots, const void *keys, const Stretch *part, const float *q, float *scores) {
    for (int i = 0; i < part->piece_count; i++) {
        const Piece piece = part->pieces[i];
        int n = 0;
        for (; n < piece.count && piece.at + n + TOGETHER <= slots; n += TOGETHER)
            score(bytes, TOGETHER, C, keys, piece.at + n, q, scores + piece.before + n);
        for (; n < piece.count; n++) score(bytes, 1, C, keys, piece.at + n, q, scores + piece.before + n);
    }
}

/* Vectors `c` to `c + N` of `outs` of G queries += shares [G, KEYS] times the values of a part. */
INLINE void mix(const int bytes, const int G, const int N, int64_t C, int64_t c, const void *values, const Stretch *part,
                const float *shares, float *const *outs) {
    vf sums[4][4];
    EACH(g, G) EACH(n, N) sums[g][n] = load(outs[g] + c + n * W);
    for (int i = 0; i < part->piece_count; i++) {
        const Piece piece = part->pieces[i];
        for (int j = 0; j < piece.count; j++) {
            vf value[4];
            EACH(n, N) value[n] = cached(bytes, values, (piece.at + j) * C + c + n * W);
            EACH(g, G) {
                vf share = all(shares[g * KEYS + piece.before + j]);
                if (N > 1) KEEP(share);
                EACH(n, N) sums[g][n] += value[n] * share;
            }
        }
    }
    EACH(g, G) EACH(n, N) store(outs[g] + c + n * W, sums[g][n]);
}

INLINE void mix_some(const int bytes, const int G, int64_t C, const void *values, const Stretch *part, const float *shares,
                     float *const *outs) {
    int64_t c = 0;
    for (; c + 4 * W <= C; c += 4 * W) mix(bytes, G, 4, C, c, values, part, shares, outs);
    for (; c + W <= C; c += W) mix(bytes, G, 1, C, c, values, part, shares, outs);
    for (; c < C; c++)
        for (int i = 0; i < part->piece_count; i++)
            for (int j = 0; j < part->pieces[i].count; j++) {
                const float value = cached_one(bytes, values, (part->pieces[i].at + j) * C + c);
                EACH(g, G) outs[g][c] = add_product(outs[g][c], shares[g * KEYS + part->pieces[i].before + j], value);
            }
}

INLINE void mix_all(const int bytes, int count, int64_t C, const void *values, const Stretch *part, const float *shares, float *const *outs) {
    int g = 0;
    for (; g + 4 <= count; g += 4) mix_some(bytes, 4, C, values, part, shares + g * KEYS, outs + g);
    for (; g + 3 <= count; g += 3) mix_some(bytes, 3, C, values, part, shares + g * KEYS, outs + g);
    for (; g < count; g++) mix_some(bytes, 1, C, values, part, shares + g * KEYS, outs + g);
}

/* Softmax as it goes (arXiv:2205.14135): scores of tokens `low` to `high` of a part become shares under the greatest score so
   far, those of the others 0, and what was summed before is brought under it. */
static void share_out(const Part *p, const int bytes, const Stretch *part, int low, int high, float *scores, float *most, float *total,
                      float *out, int64_t C) {
    vf greatest = all(-INFINITY);
    for (int i = 0; i < KEYS; i += W) {
        vf s = load(scores + i) * p->scale;
        if (bytes) s *= load(part->key_scales + i);
        store(scores + i, s);
    }
    if (p->cap > 0)
        for (int i = low; i < high; i++) scores[i] = p->cap * tanhf(scores[i] / p->cap);
    for (int i = 0; i < low; i++) scores[i] = -INFINITY;
    for (int i = high; i < KEYS; i++) scores[i] = -INFINITY;
    for (int i = 0; i < KEYS; i += W) {
        vf s = load(scores + i);
        greatest = pick(s > greatest, s, greatest);
    }
    float now = *most, found[W];
    store(found, greatest);
    for (int i = 0; i < W; i++) now = found[i] > now ? found[i] : now;
    const float shrink = expf(*most - now);
    if (shrink != 1.0f)
        for (int64_t c = 0; c < C; c++) out[c] *= shrink;
    vf sums = {0};
    for (int i = 0; i < KEYS; i += W) {
        vf e = exp_v(load(scores + i) - all(now));
        sums += e;
        if (bytes) e *= load(part->value_scales + i);
        store(scores + i, e);
    }
    *total = *total * shrink + sum(sums);
    *most = now;
}

/* The next part of a text whose runs begin at `*run`, of which `*before` tokens lie before it. */
static void find_part(const Step *s, const Part *p, int64_t base, const int64_t **run, int64_t *before, int64_t first, int64_t end,
                      Stretch *part) {
    part->first = first, part->count = 0, part->piece_count = 0;
    while (first + part->count < end) {
        const int64_t place = first + part->count, size = (*run)[1] - (*run)[0];
        if (place >= *before + size) {
            *before += size, *run += 2;
            continue;
        }
        const int64_t left = *before + size - place, wanted = end - place;
        Piece *piece = part->pieces + part->piece_count++;
        piece->at = base + (*run)[0] + place - *before;
        piece->count = (int)(left < wanted ? left : wanted), piece->before = part->count;
        if (s->cache_bytes)
            for (int i = 0; i < piece->count; i++) {
                part->key_scales[part->count + i] = p->key_scales[piece->at + i];
                part->value_scales[part->count + i] = p->value_scales[piece->at + i];
            }
        part->count += piece->count;
    }
    if (s->cache_bytes)
        for (int i = part->count; i < KEYS; i++) part->key_scales[i] = part->value_scales[i] = 0;
}

INLINE int64_t seen_from(const Step *s, const Part *p, int64_t row) {
    return p->window && s->seen[row] > p->window ? s->seen[row] - p->window : 0;
}

/* What `count` rows of one text, one after another, find for heads `head` to `head + heads`, which share a key head. */
INLINE void attend_some(const int bytes, const Step *s, const Part *p, int64_t first, int64_t count, int64_t kv, int64_t head,
                        int64_t heads, const float *q, int64_t ldq, float *out, Asking *own) {
    const int64_t C = s->head_dim, end = s->seen[first + count - 1], ldo = s->heads * C;
    for (int64_t i = 0; i < count * heads; i++) {
        own->q[i] = q + i / heads * ldq + (head + i % heads) * C;
        own->out[i] = out + i / heads * ldo + (head + i % heads) * C;
        own->most[i] = p->sinks ? p->sinks[head + i % heads] : -INFINITY, own->total[i] = p->sinks ? 1.0f : 0.0f;
        memset(own->out[i], 0, C * sizeof(float));
    }
    const int64_t *run = s->runs + 2 * s->first_run[first];
    Stretch part;
    for (int64_t before = 0, at = seen_from(s, p, first) / KEYS * KEYS; at < end; at += KEYS) {
        find_part(s, p, kv * s->slots, &run, &before, at, at + KEYS < end ? at + KEYS : end, &part);
        int64_t i = 0, last = count * heads;
        while (s->seen[first + i / heads] <= at) i += heads;
        while (seen_from(s, p, first + (last - 1) / heads) >= at + part.count) last -= heads;
        for (int64_t j = i; j < last; j++) {
            const int64_t row = first + j / heads, low = seen_from(s, p, row) - at, high = s->seen[row] - at;
            float *scores = own->scores + j * KEYS;
            score_all(bytes, C, s->kv_heads * s->slots, p->keys, &part, own->q[j], scores);
            share_out(p, bytes, &part, (int)(low > 0 ? low : 0), (int)(high < part.count ? high : part.count), scores, own->most + j,
                      own->total + j, own->out[j], C);
        }
        mix_all(bytes, (int)(last - i), C, p->values, &part, own->scores + i * KEYS, own->out + i);
    }
    for (int64_t i = 0; i < count * heads; i++)
        for (int64_t c = 0; c < C; c++) own->out[i][c] /= own->total[i];
}

static void attend(const Step *s, const Part *p, int64_t first, int64_t count, int64_t kv, const float *q, int64_t ldq, float *out,
                   Asking *own) {
    const int64_t group = s->heads / s->kv_heads, most = QUERIES / count;
    for (int64_t h = 0; h < group; h += most) {
        const int64_t heads = group - h < most ? group - h : most, head = kv * group + h;
        if (s->cache_bytes) attend_some(1, s, p, first, count, kv, head, heads, q, ldq, out, own);
        else attend_some(0, s, p, first, count, kv, head, heads, q, ldq, out, own);
    }
}

#endif
