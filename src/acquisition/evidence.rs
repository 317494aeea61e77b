//! The signals of a stage that are reckoned from columns: coverage, calibration, the slope of the learning curve.
//!
//! Invariant: every figure is `None` where there is too little to tell it from luck. Deliberately absent: the deciding,
//! signals that the model has to be asked for.

use super::Embeddings;
use super::sweep::{approach, squared_distance, squared_norms, sweep};

/// A sample counts as covered when a label is among its nearest such share of the pool.
const NEAR: f64 = 0.01;
/// Samples whose surroundings are looked at: the standard error of the share is then below 2.3 points.
const LOOKED_AT: usize = 512;
/// Answers that make a calibration error; and answers of one of its bins.
const MIN_ANSWERS: usize = 30;
const BIN: usize = 20;
/// Points of the learning curve that its slope is taken over at most.
const POINTS: usize = 5;

/// Share of the pool that lies near a label, in `[0, 1]`.
///
/// `samples` is a uniform draw from the pool, labelled ones included. Near is told by rank, a label among the nearest
/// hundredth of the draw, and not by a distance: it means the same whatever the embedding's dimensions and scale, and
/// does not shrink with the labels' own spacing. Labels drawn at random cover half at 69 labels, whatever the pool.
/// `None` without samples.
pub fn covered_share(samples: Embeddings<'_>, labelled: Embeddings<'_>) -> Option<f64> {
    if samples.len() < 2 || (!labelled.is_empty() && labelled.dim() != samples.dim()) {
        return None;
    }
    let near = ((samples.len() - 1) as f64 * NEAR).ceil() as usize;
    let looked_at = samples.len().min(LOOKED_AT);
    let looked: Vec<usize> = (0..looked_at).collect();
    let (rows, all, labels) = (samples.only(&looked), samples.all(), labelled.all());
    let (norms, all_norms) = (squared_norms(rows), squared_norms(all));
    let mut to_label = vec![f32::INFINITY; looked_at];
    approach(rows, &norms, labels, &squared_norms(labels), &mut to_label);
    let mut closer = vec![0usize; looked_at];
    sweep(rows, all, &mut closer, |closer, row, first, products| {
        let squared = |j: usize, product| squared_distance(norms[row], all_norms[first + j], product);
        let others = products.iter().enumerate().filter(|&(j, _)| first + j != row);
        *closer += others.filter(|&(j, &product)| squared(j, product) < to_label[row]).count();
    });
    let covered = to_label.iter().zip(&closer).filter(|&(label, &closer)| label.is_finite() && closer < near);
    Some(covered.count() as f64 / looked_at as f64)
}

/// Share of the answers that are right, in `[0, 1]`; `None` without answers.
pub fn accuracy(answers: &[(f32, bool)]) -> Option<f64> {
    let right = answers.iter().filter(|(_, right)| *right).count();
    (!answers.is_empty()).then(|| right as f64 / answers.len() as f64)
}

/// Expected calibration error of `(confidence, right)`, in `[0, 1]`, over bins of about twenty answers each.
///
/// Arxiv 1706.04599 with bins of equal mass. It is biased upwards, the more so the fewer answers a bin has; twenty keep
/// that below 0.09, where the fifteen bins of a large evaluation would see 0.2 in any slice of thirty. `None` below
/// thirty answers.
pub fn calibration_error(answers: &[(f32, bool)]) -> Option<f64> {
    if answers.len() < MIN_ANSWERS {
        return None;
    }
    let mut sorted = answers.to_vec();
    // By confidence alone: the order of equal ones is theirs, which the caller fixes.
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let bins = sorted.len() / BIN;
    let edge = |bin: usize| bin * sorted.len() / bins;
    let gap = |bin: usize| {
        let gaps = sorted[edge(bin)..edge(bin + 1)]
            .iter()
            .map(|&(p, right)| f64::from(u8::from(right)) - f64::from(p));
        gaps.sum::<f64>().abs()
    };
    Some((0..bins).map(gap).sum::<f64>() / sorted.len() as f64)
}

/// One point of a learning curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tried {
    /// Labels learnt from.
    pub labels: f64,
    /// Samples answered rightly, of `of`.
    pub right: f64,
    /// Samples asked.
    pub of: f64,
}

/// What accuracy gains when ln(labels) grows by one, and the standard error of that: least squares over the newest five
/// points, which come with rising labels.
///
/// The error is that of the points' own counts (of Agresti and Coull, so that it is never 0), or that of the residuals
/// where these scatter more. `None` below two points.
pub fn accuracy_slope(points: &[Tried]) -> Option<(f64, f64)> {
    let known: Vec<&Tried> = points.iter().filter(|point| point.labels > 0.0 && point.of > 0.0).collect();
    let newest = &known[known.len().saturating_sub(POINTS)..];
    let n = newest.len() as f64;
    let x = |point: &Tried| point.labels.ln();
    let y = |point: &Tried| point.right / point.of;
    let (x0, y0) = newest.iter().fold((0.0, 0.0), |(a, b), p| (a + x(p) / n, b + y(p) / n));
    let spread: f64 = newest.iter().map(|p| (x(p) - x0).powi(2)).sum();
    if newest.len() < 2 || spread < 1e-12 {
        return None;
    }
    let slope = newest.iter().map(|p| (x(p) - x0) * (y(p) - y0)).sum::<f64>() / spread;
    let of_counts = |p: &Tried| {
        let share = (p.right + 2.0) / (p.of + 4.0);
        (x(p) - x0).powi(2) * share * (1.0 - share) / (p.of + 4.0)
    };
    let counted = newest.iter().map(|&p| of_counts(p)).sum::<f64>() / spread.powi(2);
    let missed: f64 = newest.iter().map(|p| (y(p) - y0 - slope * (x(p) - x0)).powi(2)).sum();
    let scattered = if newest.len() > 2 { missed / (n - 2.0) / spread } else { 0.0 };
    Some((slope, counted.max(scattered).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[f32]) -> Embeddings<'_> {
        Embeddings::new(points, 1).expect("finite rows")
    }

    #[test]
    fn a_label_covers_the_samples_that_have_no_nearer_neighbour() {
        // Five on a line: with so few, near means the nearest neighbour. The label at 0 covers itself and 1 (nothing
        // is nearer to 1 than 0 is); 3 has 4, and 4 has 3 nearer; so has 9 both.
        let samples = [0.0, 1.0, 3.0, 4.0, 9.0];
        assert_eq!(covered_share(line(&samples), line(&[0.0])), Some(0.4));
        assert_eq!(covered_share(line(&samples), line(&[0.0, 4.0])), Some(1.0));
        assert_eq!(covered_share(line(&samples), Embeddings::empty()), Some(0.0));
        assert_eq!(covered_share(Embeddings::empty(), line(&[0.0])), None);
    }

    #[test]
    fn labels_at_random_cover_half_of_any_pool_when_there_are_about_seventy() {
        let pool: Vec<f32> = (0..1_000).map(|i| ((i * 7_919) % 10_007) as f32).collect();
        let labels: Vec<f32> = (0..69).map(|i| ((i * 104_729 + 13) % 10_007) as f32).collect();
        let share = covered_share(line(&pool), line(&labels)).expect("a share");
        assert!((0.4..0.75).contains(&share), "{share}");
    }

    #[test]
    fn a_calibration_error_by_hand_and_none_of_a_few_answers() {
        // One bin of thirty: 21 right at 0.9 is off by 0.2.
        let answers: Vec<_> = (0..30).map(|i| (0.9, i < 21)).collect();
        assert!((calibration_error(&answers).expect("enough") - 0.2).abs() < 1e-6);
        assert_eq!(calibration_error(&answers[..29]), None);
        // Two bins off by 0.1 in opposite directions do not cancel.
        let answers: Vec<_> = (0..40).map(|i| if i < 20 { (0.4, i < 10) } else { (0.8, i < 34) }).collect();
        assert!((calibration_error(&answers).expect("enough") - 0.1).abs() < 1e-6);
        assert_eq!(accuracy(&answers), Some(0.6));
        assert_eq!(accuracy(&[]), None);
    }

    #[test]
    fn a_slope_by_hand() {
        let e = std::f64::consts::E;
        let tried = |labels: f64, right: f64| Tried { labels, right, of: 96.0 };
        let points = [tried(0.0, 10.0), tried(1.0, 46.0), tried(e, 56.0), tried(e * e, 66.0)];
        let (slope, error) = accuracy_slope(&points).expect("three points");
        assert!((slope - 10.0 / 96.0).abs() < 1e-9, "{slope}");
        // The ends weigh: (0.48 x 0.52 + 0.68 x 0.32) / 100 over a spread of 2 squared.
        assert!((error - ((0.2496 + 0.2176) / 400.0f64).sqrt()).abs() < 1e-9, "{error}");
        assert_eq!(accuracy_slope(&points[..2]), None, "nothing is learnt from no labels");
    }
}
