//! Exponential and logarithm whose bits do not depend on the machine.
//!
//! Invariant: built from additions, multiplications and divisions of float64 alone, which are rounded alike
//! everywhere; a system's own mathematics library is not. Relative error below `1e-14`.
//! Deliberately absent: anything the selection does not call.

use std::f64::consts::{LN_2, LOG2_E, SQRT_2};

/// `1 / 21, 1 / 19, ..., 1`; divided at compile time, as a division costs more than the rest of a step.
const ODD_RECIPROCALS: [f64; 11] = {
    let mut all = [1.0; 11];
    let mut i = 0;
    while i < 11 {
        all[i] = 1.0 / (21.0 - 2.0 * i as f64);
        i += 1;
    }
    all
};

/// `1 / 13!, 1 / 12!, ..., 1 / 0!`.
const FACTORIAL_RECIPROCALS: [f64; 14] = {
    let mut all = [1.0; 14];
    let (mut i, mut factorial) = (13, 1.0);
    while i > 0 {
        i -= 1;
        factorial *= (13 - i) as f64;
        all[i] = 1.0 / factorial;
    }
    all
};

/// `ln x` for `x >= 0`; minus infinity at 0.
pub(super) fn ln(x: f64) -> f64 {
    if x <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if x < f64::MIN_POSITIVE {
        return ln(x * (1u64 << 54) as f64) - 54.0 * LN_2;
    }
    // x = m 2^e with m around 1; ln m = 2 atanh((m - 1) / (m + 1)).
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m > SQRT_2 {
        (m, exponent) = (m / 2.0, exponent + 1);
    }
    let t = (m - 1.0) / (m + 1.0);
    let square = t * t;
    // 1 + t^2/3 + t^4/5 + ..., |t| < 0.172: the eleventh term is below 1e-17.
    let mut series = 0.0;
    for reciprocal in ODD_RECIPROCALS {
        series = series * square + reciprocal;
    }
    exponent as f64 * LN_2 + 2.0 * t * series
}

/// `e^x`; 0 below -700 and limited to `e^700` above.
pub(super) fn exp(x: f64) -> f64 {
    if x < -700.0 {
        return 0.0;
    }
    let x = x.min(700.0);
    // x = n ln 2 + r with |r| <= ln 2 / 2.
    let n = (x * LOG2_E + if x < 0.0 { -0.5 } else { 0.5 }) as i64;
    let r = x - n as f64 * LN_2;
    // The Taylor series: the fourteenth term is below 1e-17.
    let mut series = 0.0;
    for reciprocal in FACTORIAL_RECIPROCALS {
        series = series * r + reciprocal;
    }
    series * f64::from_bits(((n + 1023) as u64) << 52)
}

/// `x^power` for `x >= 0`, with `0^0 = 1`.
pub(super) fn pow(x: f64, power: f64) -> f64 {
    if power == 0.0 || x == 1.0 {
        1.0
    } else if power == 1.0 {
        x
    } else {
        exp(power * ln(x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn special_values() {
        assert_eq!((ln(1.0), ln(0.0), exp(0.0), exp(-1e9)), (0.0, f64::NEG_INFINITY, 1.0, 0.0));
        assert_eq!((pow(0.0, 0.0), pow(0.0, 0.5), pow(3.0, 1.0)), (1.0, 0.0, 3.0));
        assert!((ln(f64::MIN_POSITIVE / 4.0) + 709.782_712_893_384).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn they_agree_with_the_library(x in -600f64..600.0, y in 1e-300f64..1e300) {
            prop_assert!((exp(x) / x.exp() - 1.0).abs() < 1e-12);
            prop_assert!((ln(y) - y.ln()).abs() <= 1e-14 * y.ln().abs().max(1.0));
            prop_assert!((ln(1.0 + x / 1200.0) - (1.0 + x / 1200.0).ln()).abs() < 1e-15);
        }
    }
}
