/* Vectors of W floats in GCC's and clang's vector extension; what the extension lacks or compiles badly, per processor. */
#ifndef DUNWU_VECTORS_H
#define DUNWU_VECTORS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#define W 16
#elif defined(__AVX2__)
#define W 8
#else
#define W 4
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));

INLINE vf load(const float *at) {
    vf v;
    memcpy(&v, at, sizeof v);
    return v;
}

/* The value is used more than once: keep it in a register, where GCC would load it for each use. */
#if defined(__AVX512F__)
#define KEEP(v) __asm__("" : "+v"(v))
#elif defined(__AVX2__)
#define KEEP(v) __asm__("" : "+x"(v))
#else
#define KEEP(v) (void)(v)
#endif

/* A product that is rounded before it is added to anything, wherever this is compiled into. */
#if defined(__x86_64__)
#define ROUNDED(s) __asm__("" : "+x"(s))
#elif defined(__aarch64__)
#define ROUNDED(s) __asm__("" : "+w"(s))
#else
#define ROUNDED(s) (void)(s)
#endif

/* sum + a * b as vectors give it. */
INLINE float add_product(float sum, float a, float b) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, sum);
#else
    return sum + a * b;
#endif
}

INLINE void store(float *at, vf v) { memcpy(at, &v, sizeof v); }

INLINE vf all(float x) { return x - (vf){0}; }

/* W signed bytes as floats. */
INLINE vf load_bytes(const int8_t *at) {
#if defined(__AVX512F__)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at)));
#else
    float v[W];
    for (int i = 0; i < W; i++) v[i] = (float)at[i];
    return load(v);
#endif
}

/* W bytes hold two numbers of 4 bits each, less 8: the low halves and the high halves as floats. */
INLINE void load_nibbles(const uint8_t *at, vf *low, vf *high) {
#if defined(__AVX512F__)
    vi bytes = (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)at));
    *low = (vf)_mm512_cvtepi32_ps((__m512i)((bytes & 15) - 8));
    *high = (vf)_mm512_cvtepi32_ps((__m512i)((bytes >> 4) - 8));
#elif defined(__AVX2__)
    vi bytes = (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)at));
    *low = (vf)_mm256_cvtepi32_ps((__m256i)((bytes & 15) - 8));
    *high = (vf)_mm256_cvtepi32_ps((__m256i)((bytes >> 4) - 8));
#else
    float lows[W], highs[W];
    for (int i = 0; i < W; i++) lows[i] = (float)((at[i] & 15) - 8), highs[i] = (float)((at[i] >> 4) - 8);
    *low = load(lows), *high = load(highs);
#endif
}

INLINE float sum(vf v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float s[W];
    store(s, v);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
#endif
}

#if defined(__AVX512F__)
/* Two vectors after one step of `sum`, side by side. */
#define HALVED(a, b, low, high) _mm512_add_ps(_mm512_shuffle_f32x4(a, b, low), _mm512_shuffle_f32x4(a, b, high))
#define PAIRED(a, b, low, high) _mm512_add_ps(_mm512_shuffle_ps(a, b, low), _mm512_shuffle_ps(a, b, high))

/* What `sum` gives of each of 16 vectors. */
INLINE vf sum_16(const vf *v) {
    static const int place[16] = {0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15};
    __m512 halves[8], quarters[4], pairs[2];
    _Pragma("GCC unroll 16") for (int i = 0; i < 8; i++)
        halves[i] = HALVED((__m512)v[place[i]], (__m512)v[place[i + 8]], 0x44, 0xEE);
    _Pragma("GCC unroll 16") for (int i = 0; i < 4; i++) quarters[i] = HALVED(halves[i], halves[i + 4], 0x88, 0xDD);
    _Pragma("GCC unroll 16") for (int i = 0; i < 2; i++) pairs[i] = PAIRED(quarters[i], quarters[i + 2], 0x44, 0xEE);
    return (vf)PAIRED(pairs[0], pairs[1], 0x88, 0xDD);
}

INLINE void sum_8(const vf *v, float *out) {
    const __m512i order = _mm512_setr_epi32(0, 1, 8, 9, 4, 5, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512 halves[4], quarters[2];
    _Pragma("GCC unroll 16") for (int i = 0; i < 4; i++) halves[i] = HALVED((__m512)v[i], (__m512)v[i + 4], 0x44, 0xEE);
    _Pragma("GCC unroll 16") for (int i = 0; i < 2; i++) quarters[i] = HALVED(halves[i], halves[i + 2], 0x88, 0xDD);
    const __m512 pairs = PAIRED(quarters[0], quarters[1], 0x44, 0xEE), all = PAIRED(pairs, pairs, 0x88, 0xDD);
    _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_permutexvar_ps(order, all)));
}
#endif

/* `sum` of each of `count` vectors, bit for bit. */
INLINE void sum_each(const int count, const vf *v, float *out) {
    int i = 0;
#if defined(__AVX512F__)
    _Pragma("GCC unroll 4") for (; i + 16 <= count; i += 16) store(out + i, sum_16(v + i));
    if (i + 8 <= count) sum_8(v + i, out + i), i += 8;
#endif
    _Pragma("GCC unroll 32") for (; i < count; i++) out[i] = sum(v[i]);
}

INLINE vf pick(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }

/* The larger of two; b where one is not a number. */
INLINE vf larger(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return pick(a > b, a, b);
#endif
}

/* The smaller of two; b where one is not a number. */
INLINE vf smaller(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#else
    return pick(a < b, a, b);
#endif
}

/* v, but 0 where `given` is less than `least`. */
INLINE vf zero_below(vf given, vf least, vf v) {
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)given, (__m512)least, _CMP_NLT_UQ), (__m512)v);
#else
    return pick(given < least, (vf){0}, v);
#endif
}

/* e to the x, to about one unit in the last place; 0 below -87, and not a number stays one. */
INLINE vf exp_v(vf x) {
    const vf magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    vf low = all(-87.0f), high = all(88.0f), given = x;
    x = smaller(high, larger(low, x));
    vf shifted = x * 1.44269504f + magic, n = shifted - magic;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vi power = ((vi)shifted - (vi)magic + 127) << 23;
    return zero_below(given, low, p * (vf)power);
}

#endif
