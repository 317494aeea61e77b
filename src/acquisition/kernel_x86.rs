//! The dot products of [`super`] in AVX-512 and AVX2.
//!
//! Invariant: the order of additions of the module above, lane by lane.
//! Deliberately absent: loops that rely on the optimiser. Blocks are spelled out, as this crate is built at a low
//! optimisation level.

use std::arch::x86_64::*;

use half::f16;

use super::{BLOCK, LANES};

/// Columns whose rows stay in the first-level cache while all rows of `a` pass by.
const RESIDENT: usize = 2 * BLOCK;

/// [`super::products`] with 16 sums of 16 lanes in registers.
///
/// # Safety
/// AVX-512F must be there, and the shapes must be as [`super::products`] checks them.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn products_avx512(a: &[f32], b: &[f32], width: usize, out: &mut [f32]) {
    let (m, n) = (a.len() / width, b.len() / width);
    let mut group = 0;
    while group < n {
        let end = (group + RESIDENT).min(n);
        let mut i = 0;
        while i < m {
            let mut j = group;
            while j < end {
                // SAFETY: i and j are starts of whole blocks inside the shapes that the caller checked.
                unsafe {
                    let (x, y) = (a.as_ptr().add(i * width), b.as_ptr().add(j * width));
                    block_avx512(x, y, width, out.as_mut_ptr().add(i * n + j), n);
                }
                j += BLOCK;
            }
            i += BLOCK;
        }
        group = end;
    }
}

/// Sixteen numbers from `at`.
///
/// A masked load of all lanes becomes a plain one. The intrinsic for the plain one carries checks of its pointer in
/// builds with debug assertions, which cost more than the load; so does `pointer::add`, hence `wrapping_add` below.
///
/// # Safety
/// AVX-512F; sixteen numbers at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_avx512(at: *const f32) -> __m512 {
    // SAFETY: the caller promises sixteen numbers.
    unsafe { _mm512_maskz_loadu_ps(0xffff, at) }
}

/// Eight numbers from `at`, without checks as in [`load_avx512`].
///
/// # Safety
/// AVX2; eight numbers at `at`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn load_avx2(at: *const f32) -> __m256 {
    // SAFETY: the caller promises eight numbers.
    _mm256_castsi256_ps(unsafe { _mm256_lddqu_si256(at.cast()) })
}

/// Four rows from `a` with four rows from `b`, to `out` whose rows are `stride` apart.
///
/// # Safety
/// AVX-512F; four rows of `width` at `a` and at `b`; a 4 x 4 block at `out`.
#[target_feature(enable = "avx512f")]
unsafe fn block_avx512(a: *const f32, b: *const f32, width: usize, out: *mut f32, stride: usize) {
    let row = |start: *const f32, i: usize| start.wrapping_add(i * width);
    let (a0, a1, a2, a3) = (a, row(a, 1), row(a, 2), row(a, 3));
    let (b0, b1, b2, b3) = (b, row(b, 1), row(b, 2), row(b, 3));
    let zero = _mm512_setzero_ps();
    // `sIJ` is row I of a with row J of b.
    let (mut s00, mut s01, mut s02, mut s03) = (zero, zero, zero, zero);
    let (mut s10, mut s11, mut s12, mut s13) = (zero, zero, zero, zero);
    let (mut s20, mut s21, mut s22, mut s23) = (zero, zero, zero, zero);
    let (mut s30, mut s31, mut s32, mut s33) = (zero, zero, zero, zero);
    let mut at = 0;
    while at < width {
        // SAFETY: `at` is below `width`, a multiple of the 16 lanes that are read.
        let (x0, x1, x2, x3, y0, y1, y2, y3) = unsafe {
            (
                load_avx512(a0.wrapping_add(at)),
                load_avx512(a1.wrapping_add(at)),
                load_avx512(a2.wrapping_add(at)),
                load_avx512(a3.wrapping_add(at)),
                load_avx512(b0.wrapping_add(at)),
                load_avx512(b1.wrapping_add(at)),
                load_avx512(b2.wrapping_add(at)),
                load_avx512(b3.wrapping_add(at)),
            )
        };
        s00 = _mm512_fmadd_ps(x0, y0, s00);
        s10 = _mm512_fmadd_ps(x1, y0, s10);
        s20 = _mm512_fmadd_ps(x2, y0, s20);
        s30 = _mm512_fmadd_ps(x3, y0, s30);
        s01 = _mm512_fmadd_ps(x0, y1, s01);
        s11 = _mm512_fmadd_ps(x1, y1, s11);
        s21 = _mm512_fmadd_ps(x2, y1, s21);
        s31 = _mm512_fmadd_ps(x3, y1, s31);
        s02 = _mm512_fmadd_ps(x0, y2, s02);
        s12 = _mm512_fmadd_ps(x1, y2, s12);
        s22 = _mm512_fmadd_ps(x2, y2, s22);
        s32 = _mm512_fmadd_ps(x3, y2, s32);
        s03 = _mm512_fmadd_ps(x0, y3, s03);
        s13 = _mm512_fmadd_ps(x1, y3, s13);
        s23 = _mm512_fmadd_ps(x2, y3, s23);
        s33 = _mm512_fmadd_ps(x3, y3, s33);
        at += LANES;
    }
    // A quarter per row of a, in it one vector per row of b with four lanes left to add.
    let w0 = quarters_avx512(s00, s10, s20, s30);
    let w1 = quarters_avx512(s01, s11, s21, s31);
    let w2 = quarters_avx512(s02, s12, s22, s32);
    let w3 = quarters_avx512(s03, s13, s23, s33);
    let x0 =
        _mm512_add_ps(_mm512_shuffle_ps::<0b01_00_01_00>(w0, w1), _mm512_shuffle_ps::<0b11_10_11_10>(w0, w1));
    let x1 =
        _mm512_add_ps(_mm512_shuffle_ps::<0b01_00_01_00>(w2, w3), _mm512_shuffle_ps::<0b11_10_11_10>(w2, w3));
    let sums =
        _mm512_add_ps(_mm512_shuffle_ps::<0b10_00_10_00>(x0, x1), _mm512_shuffle_ps::<0b11_01_11_01>(x0, x1));
    // SAFETY: the caller promises a 4 x 4 block at `out`.
    unsafe {
        _mm_storeu_ps(out, _mm512_extractf32x4_ps::<0>(sums));
        _mm_storeu_ps(out.add(stride), _mm512_extractf32x4_ps::<1>(sums));
        _mm_storeu_ps(out.add(2 * stride), _mm512_extractf32x4_ps::<2>(sums));
        _mm_storeu_ps(out.add(3 * stride), _mm512_extractf32x4_ps::<3>(sums));
    }
}

/// Adds lanes `l + 8`, then `l + 4`, of four vectors: a quarter of the result for each.
#[target_feature(enable = "avx512f")]
fn quarters_avx512(p: __m512, q: __m512, r: __m512, u: __m512) -> __m512 {
    let pq = _mm512_add_ps(
        _mm512_shuffle_f32x4::<0b01_00_01_00>(p, q),
        _mm512_shuffle_f32x4::<0b11_10_11_10>(p, q),
    );
    let ru = _mm512_add_ps(
        _mm512_shuffle_f32x4::<0b01_00_01_00>(r, u),
        _mm512_shuffle_f32x4::<0b11_10_11_10>(r, u),
    );
    _mm512_add_ps(
        _mm512_shuffle_f32x4::<0b10_00_10_00>(pq, ru),
        _mm512_shuffle_f32x4::<0b11_01_11_01>(pq, ru),
    )
}

/// [`super::products`] with 4 sums of 16 lanes, two registers each.
///
/// # Safety
/// AVX2 and FMA must be there, and the shapes must be as [`super::products`] checks them.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn products_avx2(a: &[f32], b: &[f32], width: usize, out: &mut [f32]) {
    let (m, n) = (a.len() / width, b.len() / width);
    let mut group = 0;
    while group < n {
        let end = (group + BLOCK).min(n);
        let mut i = 0;
        while i < m {
            let mut j = group;
            while j < end {
                // SAFETY: i and j are starts of whole pairs inside the shapes that the caller checked.
                unsafe {
                    let (x, y) = (a.as_ptr().add(i * width), b.as_ptr().add(j * width));
                    block_avx2(x, y, width, out.as_mut_ptr().add(i * n + j), n);
                }
                j += 2;
            }
            i += 2;
        }
        group = end;
    }
}

/// Two rows from `a` with two rows from `b`, to `out` whose rows are `stride` apart.
///
/// # Safety
/// AVX2 and FMA; two rows of `width` at `a` and at `b`; a 2 x 2 block at `out`.
#[target_feature(enable = "avx2,fma")]
unsafe fn block_avx2(a: *const f32, b: *const f32, width: usize, out: *mut f32, stride: usize) {
    let (a0, a1, b0, b1) = (a, a.wrapping_add(width), b, b.wrapping_add(width));
    let zero = _mm256_setzero_ps();
    // `lIJ` holds lanes 0 to 7 of row I of a with row J of b, `hIJ` lanes 8 to 15.
    let (mut l00, mut h00, mut l01, mut h01) = (zero, zero, zero, zero);
    let (mut l10, mut h10, mut l11, mut h11) = (zero, zero, zero, zero);
    let mut at = 0;
    while at < width {
        // SAFETY: `at` is below `width`, a multiple of the 16 lanes that are read.
        let (x0, x1, y0, y1) = unsafe {
            (
                load_avx2(a0.wrapping_add(at)),
                load_avx2(a1.wrapping_add(at)),
                load_avx2(b0.wrapping_add(at)),
                load_avx2(b1.wrapping_add(at)),
            )
        };
        l00 = _mm256_fmadd_ps(x0, y0, l00);
        l01 = _mm256_fmadd_ps(x0, y1, l01);
        l10 = _mm256_fmadd_ps(x1, y0, l10);
        l11 = _mm256_fmadd_ps(x1, y1, l11);
        // SAFETY: as above.
        let (x0, x1, y0, y1) = unsafe {
            (
                load_avx2(a0.wrapping_add(at + 8)),
                load_avx2(a1.wrapping_add(at + 8)),
                load_avx2(b0.wrapping_add(at + 8)),
                load_avx2(b1.wrapping_add(at + 8)),
            )
        };
        h00 = _mm256_fmadd_ps(x0, y0, h00);
        h01 = _mm256_fmadd_ps(x0, y1, h01);
        h10 = _mm256_fmadd_ps(x1, y0, h10);
        h11 = _mm256_fmadd_ps(x1, y1, h11);
        at += LANES;
    }
    // A half per row of a, in it four lanes left to add: column 0, then column 1.
    let w0 = halves_avx2(_mm256_add_ps(l00, h00), _mm256_add_ps(l10, h10));
    let w1 = halves_avx2(_mm256_add_ps(l01, h01), _mm256_add_ps(l11, h11));
    let x =
        _mm256_add_ps(_mm256_shuffle_ps::<0b01_00_01_00>(w0, w1), _mm256_shuffle_ps::<0b11_10_11_10>(w0, w1));
    let sums =
        _mm256_add_ps(_mm256_shuffle_ps::<0b10_00_10_00>(x, x), _mm256_shuffle_ps::<0b11_01_11_01>(x, x));
    // SAFETY: the caller promises a 2 x 2 block at `out`.
    unsafe {
        _mm_storel_pd(out.cast(), _mm_castps_pd(_mm256_castps256_ps128(sums)));
        _mm_storel_pd(out.add(stride).cast(), _mm_castps_pd(_mm256_extractf128_ps::<1>(sums)));
    }
}

/// Adds lanes `l + 4` of two vectors: a half of the result for each.
#[target_feature(enable = "avx2,fma")]
fn halves_avx2(p: __m256, q: __m256) -> __m256 {
    _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(p, q), _mm256_permute2f128_ps::<0x31>(p, q))
}

/// Widens whole groups of 16 and returns how many numbers that were.
///
/// # Safety
/// AVX-512F must be there and the lengths be equal.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn widen_avx512(from: &[f16], to: &mut [f32]) -> usize {
    let whole = from.len() / 16 * 16;
    let mut at = 0;
    while at < whole {
        // SAFETY: 16 numbers from `at` are within both slices.
        unsafe {
            let narrow = _mm256_loadu_si256(from.as_ptr().add(at).cast());
            _mm512_storeu_ps(to.as_mut_ptr().add(at), _mm512_cvtph_ps(narrow));
        }
        at += 16;
    }
    whole
}

/// Widens whole groups of 8 and returns how many numbers that were.
///
/// # Safety
/// AVX2 and F16C must be there and the lengths be equal.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn widen_avx2(from: &[f16], to: &mut [f32]) -> usize {
    let whole = from.len() / 8 * 8;
    let mut at = 0;
    while at < whole {
        // SAFETY: 8 numbers from `at` are within both slices.
        unsafe {
            let narrow = _mm_loadu_si128(from.as_ptr().add(at).cast());
            _mm256_storeu_ps(to.as_mut_ptr().add(at), _mm256_cvtph_ps(narrow));
        }
        at += 8;
    }
    whole
}
