//! Accuracy over labels as a curve that may be inverted and, with doubt, extrapolated.
//!
//! The shape of a learning curve is not known and matters most where it is extrapolated. So many shapes `a - b
//! (n + c)^-g`, and the logarithm as `g = 0`, are fitted, and each is believed by its likelihood. Invariant: no
//! shape ever rises faster with more labels than with fewer. Deliberately absent: an isotonic curve, which
//! cannot say anything beyond its last point, where a control arm always leaves us.

use rand::Rng;

use super::{chance, draw};

/// A model's result on the validation samples.
#[derive(Debug, Clone, Copy)]
pub struct CurvePoint<'a> {
    /// Labels it was trained on; 0 is the base.
    pub labels: usize,
    /// Right answers.
    pub right: usize,
    /// Validation samples.
    pub of: usize,
    /// Which were right, in one order for all points; when every point has it, samples are drawn jointly, and
    /// what is hard for all models alike cancels out.
    pub correct: Option<&'a [bool]>,
}

impl<'a> CurvePoint<'a> {
    /// A point of known answers.
    pub fn paired(labels: usize, correct: &'a [bool]) -> Self {
        let right = correct.iter().filter(|&&right| right).count();
        Self { labels, right, of: correct.len(), correct: Some(correct) }
    }

    /// A point of which only the sums are known.
    pub fn counted(labels: usize, right: usize, of: usize) -> CurvePoint<'static> {
        CurvePoint { labels, right, of, correct: None }
    }
}

/// `(1 - (1 + n/c)^-g) / g`, or `ln(1 + n/c)` for `g = 0`: 0 at the base, rising for ever more slowly.
#[derive(Debug, Clone, Copy)]
struct Shape {
    g: f64,
    c: f64,
}

impl Shape {
    fn at(self, labels: f64) -> f64 {
        let log = (labels / self.c).ln_1p();
        if self.g == 0.0 { log } else { -(-self.g * log).exp_m1() / self.g }
    }

    /// Labels at which the shape is `x`; infinite at or above its asymptote `1/g`.
    fn invert(self, x: f64) -> f64 {
        if self.g == 0.0 {
            return self.c * x.exp_m1();
        }
        if self.g * x >= 1.0 {
            return f64::INFINITY;
        }
        self.c * (-(-self.g * x).ln_1p() / self.g).exp_m1()
    }
}

const POWERS: [f64; 5] = [0.0, 0.25, 0.5, 1.0, 2.0];
/// Scales as shares of the largest training set.
const SCALES: [f64; 5] = [0.01, 0.04, 0.15, 0.5, 2.0];

/// All shapes with their probabilities.
pub(super) struct Curve {
    shapes: Vec<(Shape, f64)>,
    /// Inverse variances of the points.
    weights: Vec<f64>,
    /// By how much the points' deviations exceed what was assumed, at least 1.
    excess: f64,
    training: f64,
}

impl Curve {
    /// Fits every shape by least squares weighted by the inverse variance of each point: binomial, plus the
    /// square of `training`, the deviation of accuracy from one training to another.
    ///
    /// If even the best shape misses the points by more than that, all noise grows by the factor.
    pub(super) fn fit(points: &[CurvePoint<'_>], training: f64) -> Self {
        let weights: Vec<f64> = points.iter().map(|point| 1.0 / variance(point, training)).collect();
        let y: Vec<f64> = points.iter().map(accuracy).collect();
        let last = points.iter().map(|point| point.labels).max().unwrap_or(1) as f64;
        let fits =
            POWERS.iter().flat_map(|&g| SCALES.map(|share| Shape { g, c: share * last })).map(|shape| {
                let (at_base, slope) = line(shape, points, &weights, &y);
                let miss = |i: usize| y[i] - at_base - slope * shape.at(points[i].labels as f64);
                (shape, (0..y.len()).map(|i| weights[i] * miss(i).powi(2)).sum::<f64>())
            });
        let fits: Vec<(Shape, f64)> = fits.collect();
        let best = fits.iter().map(|fit| fit.1).fold(f64::INFINITY, f64::min);
        let excess = (best / points.len().saturating_sub(3).max(1) as f64).max(1.0);
        let shapes =
            fits.into_iter().map(|(shape, miss)| (shape, (-0.5 * (miss - best) / excess).exp())).collect();
        Self { shapes, weights, excess: excess.sqrt(), training }
    }

    /// Labels at which the curve reaches `actual`, by one draw of everything uncertain; infinite when it never
    /// does.
    ///
    /// Drawn are a shape by its likelihood and new accuracies: of the same resampled validation samples for all
    /// points where all have their answers, otherwise normal.
    pub(super) fn draw(&self, random: &[CurvePoint<'_>], actual: &CurvePoint<'_>, rng: &mut impl Rng) -> f64 {
        let total: f64 = self.shapes.iter().map(|(_, p)| p).sum();
        let mut left = total * chance::unit(rng);
        let chosen = self.shapes.iter().find(|(_, p)| {
            left -= p;
            left < 0.0
        });
        let shape = chosen.or(self.shapes.last()).map_or(Shape { g: 0.0, c: 1.0 }, |(shape, _)| *shape);

        let paired = random.iter().chain([actual]).all(|p| p.correct.is_some() && p.of == actual.of);
        let picks: Vec<usize> =
            if paired { (0..actual.of).map(|_| draw::below(rng, actual.of)).collect() } else { vec![] };
        let mut redraw = |point: &CurvePoint<'_>| {
            let sampled = match point.correct.filter(|_| paired) {
                Some(correct) => picks.iter().filter(|&&i| correct[i]).count() as f64 / point.of as f64,
                None => accuracy(point) + variance(point, 0.0).sqrt() * chance::normal(rng),
            };
            // The base is one model and has no training to vary.
            let training = if point.labels == 0 { 0.0 } else { self.training * chance::normal(rng) };
            sampled - accuracy(point) + training
        };
        let y: Vec<f64> = random.iter().map(|point| accuracy(point) + self.excess * redraw(point)).collect();
        let reached = accuracy(actual) + redraw(actual);
        let (at_base, slope) = line(shape, random, &self.weights, &y);
        if reached <= at_base {
            0.0
        } else if slope <= 0.0 {
            f64::INFINITY
        } else {
            shape.invert((reached - at_base) / slope)
        }
    }
}

/// Intercept and slope of `y` on the shape, by weighted least squares.
fn line(shape: Shape, points: &[CurvePoint<'_>], weights: &[f64], y: &[f64]) -> (f64, f64) {
    let x: Vec<f64> = points.iter().map(|point| shape.at(point.labels as f64)).collect();
    let sum = |of: &dyn Fn(usize) -> f64| (0..x.len()).map(|i| weights[i] * of(i)).sum::<f64>();
    let total = sum(&|_| 1.0);
    let (mean_x, mean_y) = (sum(&|i| x[i]) / total, sum(&|i| y[i]) / total);
    let slope = sum(&|i| (x[i] - mean_x) * (y[i] - mean_y)) / sum(&|i| (x[i] - mean_x).powi(2));
    (mean_y - slope * mean_x, slope)
}

fn accuracy(point: &CurvePoint<'_>) -> f64 {
    point.right as f64 / point.of as f64
}

/// Variance of an accuracy; half an answer is added to each side so that none is certain.
fn variance(point: &CurvePoint<'_>, training: f64) -> f64 {
    let p = (point.right as f64 + 0.5) / (point.of as f64 + 1.0);
    let training = if point.labels == 0 { 0.0 } else { training };
    p * (1.0 - p) / point.of as f64 + training.powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_inverted_exactly() {
        for g in POWERS {
            let shape = Shape { g, c: 40.0 };
            assert!((shape.invert(shape.at(300.0)) - 300.0).abs() < 1e-6, "{g}");
            assert_eq!(shape.at(0.0), 0.0);
        }
        // (1 - (1 + 40/40)^-1) / 1 = 1/2, and its asymptote 1 is never reached.
        assert_eq!((Shape { g: 1.0, c: 40.0 }).at(40.0), 0.5);
        assert_eq!((Shape { g: 1.0, c: 40.0 }).invert(1.0), f64::INFINITY);
    }
}
