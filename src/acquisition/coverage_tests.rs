//! Tests of coverage against greedy over all similarities and against the best of all sets.

use super::*;
use crate::acquisition::caps::{GroupCap, Limit};
use crate::acquisition::sweep::{products, squared_distance};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn rng(seed: u8) -> ChaCha8Rng {
    ChaCha8Rng::from_seed([seed; 32])
}

/// All similarities of a small pool, `[n, n]`.
fn dense(pool: Embeddings<'_>, squared_width: f32) -> Vec<f32> {
    let (n, norms) = (pool.len(), squared_norms(pool.all()));
    let mut all = products(pool.all(), pool.all());
    for (at, product) in all.iter_mut().enumerate() {
        *product = similarity(squared_distance(norms[at / n], norms[at % n], *product), squared_width);
    }
    all
}

fn objective(similar: &[f32], values: &[f32], chosen: &[usize]) -> f64 {
    let n = values.len();
    let best = |x: usize| chosen.iter().map(|&s| similar[s * n + x]).fold(0f32, f32::max);
    (0..n).map(|x| f64::from(values[x]) * f64::from(best(x))).sum()
}

/// Greedy over all similarities, every gain found anew where its bound leads.
fn exact_greedy(similar: &[f32], values: &[f32], k: usize) -> Vec<usize> {
    let n = values.len();
    let mut covered = vec![0f32; n];
    let gain = |s: usize, covered: &[f32]| -> f64 {
        let row = &similar[s * n..][..n];
        let terms = row.iter().zip(covered).zip(values);
        terms.map(|((&new, &old), &u)| f64::from(u) * f64::from((new - old).max(0.0))).sum()
    };
    let mut heap: BinaryHeap<Bound> =
        (0..n).map(|at| Bound { gain: gain(at, &covered), lot: 0, at, picks: 0 }).collect();
    let mut picks = Vec::new();
    while picks.len() < k {
        let Some(mut leader) = heap.pop() else { break };
        if leader.picks < picks.len() {
            leader.gain = gain(leader.at, &covered);
            leader.picks = picks.len();
            heap.push(leader);
            continue;
        }
        picks.push(leader.at);
        covered.iter_mut().zip(&similar[leader.at * n..]).for_each(|(old, &new)| *old = old.max(new));
    }
    picks
}

/// `n` rows of unit norm in `clusters` clusters (none for 0), with values.
fn unit_rows(n: usize, dim: usize, clusters: usize, spread: f32, seed: u8) -> (Vec<f32>, Vec<f32>) {
    let mut rng = rng(seed);
    let mut normal = move || {
        let radius = (-2.0 * numeric::ln(draw::unit(&mut rng))).sqrt();
        (radius * (std::f64::consts::TAU * draw::unit(&mut rng)).cos()) as f32
    };
    let centres: Vec<f32> = (0..clusters * dim).map(|_| normal()).collect();
    let mut rows = Vec::with_capacity(n * dim);
    for i in 0..n {
        let mut row: Vec<f32> = (0..dim).map(|_| normal()).collect();
        if clusters > 0 {
            // Clusters of unlike sizes.
            let cluster = (i * i / 7) % clusters;
            row.iter_mut().zip(&centres[cluster * dim..]).for_each(|(x, c)| *x = *x * spread + c);
        }
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        rows.extend(row.iter().map(|x| x / norm));
    }
    let values = (0..n).map(|_| normal().abs()).collect();
    (rows, values)
}

/// What coverage reaches, as a share of greedy over all similarities.
fn share_of_exact(n: usize, dim: usize, clusters: usize, spread: f32, k: usize) -> f64 {
    let (rows, values) = unit_rows(n, dim, clusters, spread, 5);
    let pool = Embeddings::new(&rows, dim).expect("whole rows");
    let all: Vec<usize> = (0..n).collect();
    let start = Coverage::default();
    let picks = coverage(&values, pool, &all, Known::nothing(), k, start, Caps::none(), &mut rng(1));
    // The same draws as coverage makes before it asks for the width.
    let mut same = rng(1);
    draw::sample_front(&mut all.clone(), start.most_targets, &mut same);
    let similar = dense(pool, squared_width(pool, Known::nothing(), k, &mut same));
    let picks = picks.expect("finite values");
    assert_eq!(picks.len(), k);
    objective(&similar, &values, &picks) / objective(&similar, &values, &exact_greedy(&similar, &values, k))
}

#[test]
fn a_pool_of_two_thousand_is_covered_as_by_exact_greedy() {
    for (clusters, spread) in [(0, 1.0), (40, 0.3), (40, 1.0)] {
        for k in [5, 50, 300] {
            let share = share_of_exact(2_000, 24, clusters, spread, k);
            assert!(share > 0.98, "{clusters} clusters, spread {spread}, {k} picks: {share}");
        }
    }
}

#[test]
fn hand_computed_on_a_line() {
    // Two crowds and a lone sample; the larger crowd comes first, then the other, then the lone one.
    let line = [0.0, 0.1, 0.2, 5.0, 5.1, 20.0];
    let pool = Embeddings::new(&line, 1).expect("six rows");
    let all: Vec<usize> = (0..6).collect();
    let pick = |values: &[f32], known, tau, caps| {
        let config = Coverage { tau, ..Coverage::default() };
        coverage(values, pool, &all, known, 3, config, caps, &mut rng(1)).expect("finite values")
    };
    let even = [1.0; 6];
    let picks = pick(&even, Known::nothing(), 1.0, Caps::none());
    assert_eq!(picks[0], 1);
    assert!([3, 4].contains(&picks[1]) && picks[2] == 5, "{picks:?}");
    // What is worth nothing need not be covered, unless tau says that value does not count.
    let lone = [0.0, 0.0, 0.0, 0.0, 0.1, 1.0];
    assert_eq!(pick(&lone, Known::nothing(), 1.0, Caps::none())[..2], [5, 4]);
    assert_eq!(pick(&lone, Known::nothing(), 0.0, Caps::none())[0], 1);
    // A labelled crowd counts as covered.
    let known = Known { labelled: Embeddings::empty(), planned: &[1] };
    assert!([3, 4].contains(&pick(&even, known, 1.0, Caps::none())[0]));
    // Caps hold, also for what is filled in.
    let image = Some(GroupCap { groups: &[0, 0, 0, 0, 0, 1], limit: Limit::Each(1) });
    assert_eq!(pick(&even, Known::nothing(), 1.0, Caps { image, ..Caps::none() }), [1, 5]);
}

#[test]
fn a_large_pool_is_drawn_by_value_and_a_little_uniformly() {
    let values: Vec<f32> = (0..10_000).map(|i| if i < 5_000 { 0.0 } else { 1.0 }).collect();
    let all: Vec<usize> = (0..10_000).collect();
    let config = Coverage { most_candidates: 1_000, ..Coverage::default() };
    let short = shortlist(&values, &all, config, &mut rng(1));
    assert_eq!(short.len(), 1_000);
    let worthless = short.iter().filter(|&&row| row < 5_000).count();
    assert!((10..50).contains(&worthless), "{worthless}");
    assert!(short.windows(2).all(|pair| pair[0] < pair[1]));
    let flat = shortlist(&values, &all, Coverage { tau: 0.0, ..config }, &mut rng(1));
    assert!(flat.iter().filter(|&&row| row < 5_000).count().abs_diff(500) < 100);
}

#[test]
fn more_labels_narrow_the_kernel() {
    let (rows, _) = unit_rows(600, 4, 0, 1.0, 2);
    let pool = Embeddings::new(&rows, 4).expect("whole rows");
    let width = |labelled: usize| {
        let labelled = Embeddings::new(&rows[..labelled * 4], 4).expect("whole rows");
        squared_width(pool, Known { labelled, planned: &[] }, 10, &mut rng(1))
    };
    assert!(width(500) < width(50) && width(50) < width(5));
    let (one, none) = (width(1), width(0));
    assert!((one - none).abs() < 0.2 * none, "too few to have neighbours, the pool is asked: {one} {none}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn greedy_reaches_its_guarantee(
        points in prop::collection::vec((0f32..1.0, 0f32..1.0, 0.01f32..1.0), 4..11), k in 1usize..4, seed in 0u8..255,
    ) {
        let rows: Vec<f32> = points.iter().flat_map(|&(x, y, _)| [x, y]).collect();
        let values: Vec<f32> = points.iter().map(|&(_, _, u)| u).collect();
        let pool = Embeddings::new(&rows, 2).expect("rows of two");
        let all: Vec<usize> = (0..pool.len()).collect();
        let config = Coverage::default();
        let picks = coverage(&values, pool, &all, Known::nothing(), k, config, Caps::none(), &mut rng(seed));
        let mut same = rng(seed);
        draw::sample_front(&mut all.clone(), config.most_targets, &mut same);
        let similar = dense(pool, squared_width(pool, Known::nothing(), k, &mut same));
        let best = (0u32..1 << pool.len())
            .filter(|set| set.count_ones() as usize == k)
            .map(|set| {
                let chosen: Vec<usize> = (0..pool.len()).filter(|i| set >> i & 1 == 1).collect();
                objective(&similar, &values, &chosen)
            })
            .fold(0.0, f64::max);
        let reached = objective(&similar, &values, &picks.expect("finite values"));
        prop_assert!(reached >= (1.0 - (-1f64).exp()) * best - 1e-6, "{reached} of {best}");
    }
}
