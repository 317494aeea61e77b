//! Dot products of many rows with many columns.
//!
//! Invariant: a dot product has the same bits on every machine, in every block shape and for any number of threads,
//! because plans are replayed from stored scores and compared for equality. It is 16 running sums, lane `l` taking
//! the components `l, l + 16, ...` in order by fused multiply-add, then added up in halves (`l + 8`, `+ 4`, `+ 2`,
//! `+ 1`). AVX-512, AVX2 and plain code all follow that order.
//! Deliberately absent: where the rows come from and how the work is shared out, which is [`super::sweep`].

use half::f16;

/// Running sums of a dot product; rows are padded with zeros to a multiple of it.
pub(super) const LANES: usize = 16;

/// Rows and columns of a register block; tiles are padded to a multiple of it.
pub(super) const BLOCK: usize = 4;

/// The instructions in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// Plain Rust.
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Path {
    /// The paths that this machine can take, the fastest first.
    fn available() -> impl Iterator<Item = Path> {
        #[cfg(target_arch = "x86_64")]
        let vector = {
            let avx512 = is_x86_feature_detected!("avx512f").then_some(Path::Avx512);
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            avx512.into_iter().chain(avx2.then_some(Path::Avx2))
        };
        #[cfg(not(target_arch = "x86_64"))]
        let vector = std::iter::empty();
        vector.chain(std::iter::once(Path::Portable))
    }

    /// The fastest path of this machine.
    pub(super) fn best() -> Self {
        Self::available().next().unwrap_or(Path::Portable)
    }
}

/// Writes the dot products of every row of `a` with every row of `b` to `out`.
///
/// `a` is `[m, width]`, `b` is `[n, width]`, `out` is `[m, n]`; `m` and `n` are multiples of [`BLOCK`] and `width`
/// one of [`LANES`]. Panics otherwise.
pub(super) fn products(path: Path, a: &[f32], b: &[f32], width: usize, out: &mut [f32]) {
    assert!(width > 0 && width.is_multiple_of(LANES), "rows are padded to whole lanes");
    let (m, n) = (a.len() / width, b.len() / width);
    assert!(a.len() == m * width && b.len() == n * width && out.len() == m * n, "whole rows");
    assert!(m.is_multiple_of(BLOCK) && n.is_multiple_of(BLOCK), "whole blocks");
    match path {
        Path::Portable => portable(a, b, width, out),
        // SAFETY: the path is only made where the instructions are there; the shapes were checked above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { x86::products_avx2(a, b, width, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { x86::products_avx512(a, b, width, out) },
    }
}

/// Widens float16 to float32, exactly. Panics unless both slices are of one length.
pub(super) fn widen(path: Path, from: &[f16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "one number for one");
    let done = match path {
        Path::Portable => 0,
        // SAFETY: the path is only made where the instructions are there; the lengths are equal.
        #[cfg(target_arch = "x86_64")]
        Path::Avx2 => unsafe { x86::widen_avx2(from, to) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => unsafe { x86::widen_avx512(from, to) },
    };
    for (value, wide) in from[done..].iter().zip(&mut to[done..]) {
        *wide = value.to_f32();
    }
}

fn portable(a: &[f32], b: &[f32], width: usize, out: &mut [f32]) {
    let n = b.len() / width;
    for (x, out) in a.chunks_exact(width).zip(out.chunks_exact_mut(n)) {
        for (y, out) in b.chunks_exact(width).zip(out) {
            let mut lanes = [0f32; LANES];
            for (x, y) in x.as_chunks::<LANES>().0.iter().zip(y.as_chunks::<LANES>().0) {
                for lane in 0..LANES {
                    lanes[lane] = x[lane].mul_add(y[lane], lanes[lane]);
                }
            }
            let mut half = LANES / 2;
            while half > 0 {
                for lane in 0..half {
                    lanes[lane] += lanes[lane + half];
                }
                half /= 2;
            }
            *out = lanes[0];
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[path = "kernel_x86.rs"]
mod x86;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hand_computed_products() {
        // Rows (1, 2, 0...) and (0, 1, 0...), padded with two rows of zeros.
        let mut a = [0f32; 4 * 16];
        (a[0], a[1], a[17]) = (1.0, 2.0, 1.0);
        for path in Path::available() {
            let mut out = [f32::NAN; 16];
            products(path, &a, &a, 16, &mut out);
            assert_eq!(out[..6], [5.0, 2.0, 0.0, 0.0, 2.0, 1.0], "{path:?}");
        }
    }

    #[test]
    fn every_float16_is_widened_exactly() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|value| !value.is_nan()).collect();
        for path in Path::available() {
            let mut wide = vec![0f32; all.len()];
            widen(path, &all, &mut wide);
            assert!(all.iter().zip(&wide).all(|(x, y)| x.to_f32().to_bits() == y.to_bits()), "{path:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_path_gives_the_same_bits(
            m in 1usize..6, n in 1usize..6, lanes in 1usize..6,
            noise in prop::collection::vec(-1f32..1.0, 37),
        ) {
            let width = lanes * LANES;
            let fill = |rows: usize, step: usize| -> Vec<f32> {
                (0..rows * BLOCK * width).map(|i| noise[i * step % 37] * (1.0 + (i % 11) as f32)).collect()
            };
            let (a, b) = (fill(m, 5), fill(n, 7));
            let run = |path| {
                let mut out = vec![f32::NAN; m * n * BLOCK * BLOCK];
                products(path, &a, &b, width, &mut out);
                out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let expected = run(Path::Portable);
            for path in Path::available() {
                prop_assert_eq!(&run(path), &expected, "{:?}", path);
            }
            let plain: f64 = a[..width].iter().zip(&b).map(|(x, y)| f64::from(x * y)).sum();
            prop_assert!((f64::from(f32::from_bits(expected[0])) - plain).abs() < 1e-3 * width as f64);
        }
    }
}
