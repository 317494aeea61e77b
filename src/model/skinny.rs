//! The product of a few rows with a large matrix, at the rate at which memory gives the matrix.
//!
//! Decoding multiplies 1 to 16 rows by every weight at each token. The CPU library's general product reads the weights at
//! a third of memory's rate there; this one keeps a block of weight rows and all inputs in registers and the nearest
//! cache, and reads every weight once. Source: register blocking as in GotoBLAS (Goto and van de Geijn, 2008).
//! Invariant: plain sums of products in float32, no graph: for tensors that want no gradients. Work is shared out on the
//! tensor library's own threads, so no second pool competes with them.
//! Deliberately absent: processors without AVX2, for which the caller has the library's product.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows that are multiplied at most.
pub(super) const MOST_ROWS: usize = 16;
/// Weight rows that a thread takes at once.
const SHARE: usize = 64;

/// Operands: `x` `[rows, k]`, `w` `[n, k]`, `y` `[rows, n]`, all dense, row by row.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub x: *const f32,
    pub w: *const f32,
    pub y: *mut f32,
    pub rows: usize,
    pub k: usize,
    pub n: usize,
}

/// Whether this processor and this tensor library can run [`multiply`].
pub(super) fn is_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && team::start().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// `y = x w^T` with `threads` threads.
///
/// # Safety
/// The pointers must be to that many numbers, `y` to nothing else that is in use; `rows` at most [`MOST_ROWS`];
/// [`is_available`] must have said so.
pub(super) unsafe fn multiply(product: Product, threads: usize) {
    let job = Job { product, next: AtomicUsize::new(0) };
    let shares = product.n.div_ceil(SHARE);
    match team::start() {
        Some(start) if threads > 1 && shares > 1 => {
            let data = (&raw const job).cast_mut().cast::<c_void>();
            // SAFETY: the library calls `work` with this pointer on its threads and returns when all have ended, so the
            // job outlives every use of it.
            unsafe { start(work, data, threads.min(shares) as u32, 0) };
        }
        _ => job.run(),
    }
}

/// A product and the next share of it that nobody has taken.
struct Job {
    product: Product,
    next: AtomicUsize,
}

extern "C" fn work(job: *mut c_void) {
    // SAFETY: `multiply` gave a pointer to a job that outlives this call, and only shares it.
    unsafe { &*job.cast::<Job>() }.run();
}

impl Job {
    fn run(&self) {
        loop {
            let from = self.next.fetch_add(1, Ordering::Relaxed) * SHARE;
            if from >= self.product.n {
                return;
            }
            let to = (from + SHARE).min(self.product.n);
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller of `multiply` vouches for the operands, and shares do not overlap.
            unsafe {
                match is_x86_feature_detected!("avx512f") {
                    true => kernel::avx512(self.product, from, to),
                    false => kernel::avx2(self.product, from, to),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = to;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod kernel {
    use super::Product;
    use std::arch::x86_64::*;
    use std::array::from_fn;

    /// Weight rows between those that are multiplied and those that are fetched.
    const AHEAD: usize = 4;

    /// The sum of eight numbers.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn sum256(numbers: __m256) -> f32 {
        let four = _mm_add_ps(_mm256_castps256_ps128(numbers), _mm256_extractf128_ps::<1>(numbers));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }

    /// One instruction set: weight rows `from..to` two at a time, by up to eight inputs at a time.
    ///
    /// A macro and no generic function: instructions are only inlined into functions that name their feature.
    macro_rules! kernel {
        ($name:ident, $block:ident, $feature:literal, $lanes:literal, $zero:ident, $load:ident, $fma:ident, $sum:ident) => {
            #[target_feature(enable = $feature)]
            pub(super) unsafe fn $name(p: Product, from: usize, to: usize) {
                let mut at = from;
                while at < to {
                    let pair = at + 1 < to;
                    let mut row = 0;
                    while row < p.rows {
                        let left = p.rows - row;
                        // SAFETY: `row + R` and `at + NB` stay within the operands by the conditions around.
                        unsafe {
                            row += match (pair, left) {
                                (true, 8..) => $block::<8, 2>(p, row, at),
                                (true, 4..) => $block::<4, 2>(p, row, at),
                                (true, 2..) => $block::<2, 2>(p, row, at),
                                (true, _) => $block::<1, 2>(p, row, at),
                                (false, 8..) => $block::<8, 1>(p, row, at),
                                (false, 4..) => $block::<4, 1>(p, row, at),
                                (false, 2..) => $block::<2, 1>(p, row, at),
                                (false, _) => $block::<1, 1>(p, row, at),
                            };
                        }
                    }
                    at += if pair { 2 } else { 1 };
                }
            }

            /// `R` inputs by `NB` weight rows; the loops of fixed length become registers. Returns `R`.
            #[target_feature(enable = $feature)]
            unsafe fn $block<const R: usize, const NB: usize>(p: Product, row: usize, at: usize) -> usize {
                // SAFETY: all offsets are within `rows x k` and `n x k`, as `row + R <= rows` and `at + NB <= n`.
                unsafe {
                    let x: [*const f32; R] = from_fn(|r| p.x.add((row + r) * p.k));
                    let w: [*const f32; NB] = from_fn(|b| p.w.add((at + b) * p.k));
                    let mut sums = [[$zero(); R]; NB];
                    let mut place = 0;
                    while place + $lanes <= p.k {
                        // Rows are too short for the processor to see the stream: the next ones are asked for here.
                        // Past the end nothing is fetched, and an address is all that is made.
                        for b in 0..NB {
                            let ahead = w[b].wrapping_add(AHEAD * p.k + place);
                            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                        }
                        let first = $load(w[0].add(place));
                        let second = $load(w[NB - 1].add(place));
                        for r in 0..R {
                            let input = $load(x[r].add(place));
                            sums[0][r] = $fma(first, input, sums[0][r]);
                            if NB == 2 {
                                sums[NB - 1][r] = $fma(second, input, sums[NB - 1][r]);
                            }
                        }
                        place += $lanes;
                    }
                    for b in 0..NB {
                        for r in 0..R {
                            let mut sum = $sum(sums[b][r]);
                            for rest in place..p.k {
                                sum += *w[b].add(rest) * *x[r].add(rest);
                            }
                            *p.y.add((row + r) * p.n + at + b) = sum;
                        }
                    }
                }
                R
            }
        };
    }

    kernel!(
        avx512,
        block512,
        "avx512f",
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_fmadd_ps,
        _mm512_reduce_add_ps
    );
    kernel!(avx2, block256, "avx2,fma", 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_fmadd_ps, sum256);
}

/// The tensor library's own threads, asked for through the OpenMP runtime that it has loaded.
mod team {
    use std::ffi::c_void;
    use std::sync::OnceLock;

    /// `GOMP_parallel` of the GNU runtime, which LLVM's offers too: function, its data, threads, flags.
    pub(super) type Start = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, u32, u32);

    pub(super) fn start() -> Option<Start> {
        static FOUND: OnceLock<Option<Start>> = OnceLock::new();
        *FOUND.get_or_init(|| {
            // SAFETY: the name is a C string; the default handle searches what is loaded already.
            let symbol = unsafe { nix::libc::dlsym(nix::libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr()) };
            // SAFETY: a symbol of this name has this signature in every runtime that has it (the compilers call it).
            (!symbol.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Start>(symbol) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_rows_and_every_rest_is_the_plain_sum() {
        if !is_available() {
            // Another processor or runtime: `product` then takes the library's way, and there is nothing to run here.
            #[cfg(target_arch = "x86_64")]
            assert!(!is_x86_feature_detected!("avx2") || team::start().is_none());
            return;
        }
        let number = |at: usize| ((at * 37 % 101) as f32 - 50.0) / 50.0;
        for (rows, k, n) in [(1, 16, 1), (2, 40, 3), (3, 7, 65), (7, 33, 130), (8, 64, 129), (16, 100, 200)] {
            let x: Vec<f32> = (0..rows * k).map(number).collect();
            let w: Vec<f32> = (0..n * k).map(|at| number(at + 11)).collect();
            for threads in [1, 2] {
                let mut y = vec![f32::NAN; rows * n];
                let product = Product { x: x.as_ptr(), w: w.as_ptr(), y: y.as_mut_ptr(), rows, k, n };
                // SAFETY: the vectors have the lengths that the product says.
                unsafe { multiply(product, threads) };
                for (at, found) in y.iter().enumerate() {
                    let (row, out) = (at / n, at % n);
                    let wanted: f64 =
                        (0..k).map(|i| f64::from(x[row * k + i]) * f64::from(w[out * k + i])).sum();
                    assert!((f64::from(*found) - wanted).abs() < 1e-4, "{rows} x {k} x {n} at {at}: {found}");
                }
            }
        }
    }
}
