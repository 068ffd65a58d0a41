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

INLINE vf pick(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }

/* e to the x, to about one unit in the last place; 0 below -87, and not a number stays one. */
INLINE vf exp_v(vf x) {
    const vf magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    vf low = all(-87.0f), high = all(88.0f), given = x;
    x = pick(x < low, low, x);
    x = pick(x > high, high, x);
    vf shifted = x * 1.44269504f + magic, n = shifted - magic;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vi power = ((vi)shifted - (vi)magic + 127) << 23;
    return pick(given < low, (vf){0}, p * (vf)power);
}

#endif
