//! Tests of k-center against the plain algorithm and against the best of all sets.

use super::*;
use crate::acquisition::caps::{GroupCap, Limit};
use crate::acquisition::sweep::products;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn rng(seed: u8) -> ChaCha8Rng {
    ChaCha8Rng::from_seed([seed; 32])
}

fn rows(picks: Result<Vec<Pick>, SelectError>) -> Vec<usize> {
    picks.expect("one space").iter().map(|pick| pick.row).collect()
}

/// The algorithm as it is written in the paper, with the same lots for ties.
fn plain(pool: Embeddings<'_>, known: Known<'_>, k: usize, weights: Option<&[f32]>, seed: u8) -> Vec<Pick> {
    let lots = draw::permutation(pool.len(), &mut rng(seed));
    let norms = squared_norms(pool.all());
    let all = products(pool.all(), pool.all());
    let mut nearest = known.nearest(pool, pool.all(), &norms);
    let mut left: Vec<usize> = (0..pool.len()).collect();
    let mut picks = Vec::new();
    while picks.len() < k && !left.is_empty() {
        let rank = |row: usize| weights.map_or(nearest[row], |weights| weighted(nearest[row], weights[row]));
        let order = |a: &usize, b: &usize| rank(*a).total_cmp(&rank(*b)).then(lots[*a].cmp(&lots[*b]));
        let row = left.iter().copied().max_by(order).expect("rows are left");
        left.retain(|&other| other != row);
        picks.push(Pick { row, distance: nearest[row].sqrt() });
        for &other in &left {
            let squared = squared_distance(norms[other], norms[row], all[other * pool.len() + row]);
            nearest[other] = nearest[other].min(squared);
        }
    }
    picks
}

#[test]
fn hand_computed_on_a_line() {
    // From a centre at 0: 10 is farthest (10), then 4 (4 from 0, 6 from 10), then 7 (3 from both), then 1.
    let pool = Embeddings::new(&[1.0, 4.0, 7.0, 10.0], 1).expect("four rows");
    let known = Known { labelled: Embeddings::new(&[0.0], 1).expect("one row"), planned: &[] };
    let pick = |candidates: &[usize], weights, caps| {
        k_center(pool, candidates, known, 4, weights, caps, &mut rng(1)).expect("one space")
    };
    let picks = pick(&[0, 1, 2, 3], None, Caps::none());
    let distances: Vec<f32> = picks.iter().map(|pick| pick.distance).collect();
    assert_eq!(rows(Ok(picks)), [3, 1, 2, 0]);
    assert_eq!(distances, [10.0, 4.0, 3.0, 1.0]);
    assert_eq!(rows(Ok(pick(&[0, 2], None, Caps::none()))), [2, 0], "candidates limit the picks");
    let image = Some(GroupCap { groups: &[0, 1, 2, 2], limit: Limit::Each(1) });
    assert_eq!(rows(Ok(pick(&[0, 1, 2, 3], None, Caps { image, ..Caps::none() }))), [3, 1, 0]);
    // 1 x 9, 4 x 1, 7 x 2, 10 x 1: 14 leads; from 7 then 1 x 9 = 9, 3 x 1 and 3 x 1; then ties at 3.
    let weights = [9.0, 1.0, 2.0, 1.5];
    assert_eq!(rows(Ok(pick(&[0, 1, 2, 3], Some(&weights), Caps::none())))[..3], [3, 0, 2]);
}

#[test]
fn where_nothing_is_known_the_rng_or_the_weight_draws_the_first() {
    let values: Vec<f32> = (0..50).map(|i| i as f32).collect();
    let pool = Embeddings::new(&values, 1).expect("fifty rows");
    let all: Vec<usize> = (0..50).collect();
    let first = |seed, weights| {
        k_center(pool, &all, Known::nothing(), 1, weights, Caps::none(), &mut rng(seed)).expect("one space")
            [0]
    };
    assert!(first(1, None).distance.is_infinite());
    assert!((2..10).any(|seed| first(seed, None).row != first(1, None).row));
    let mut weights = [0.1; 50];
    weights[17] = 0.2;
    assert_eq!(first(1, Some(&weights)).row, 17);
}

#[test]
fn samples_of_another_space_are_an_error() {
    let pool = Embeddings::new(&[1.0, 2.0], 2).expect("one row");
    let known = Known { labelled: Embeddings::new(&[1.0], 1).expect("one row"), planned: &[] };
    let refused = k_center(pool, &[0], known, 1, None, Caps::none(), &mut rng(1));
    assert!(matches!(refused, Err(SelectError::Shape { column: "labelled embeddings", .. })));
}

#[test]
fn many_more_candidates_than_leaders_change_no_pick() {
    let values: Vec<f32> = (0..6000).map(|i| (i * 7919 % 6011) as f32 / 6011.0).collect();
    let pool = Embeddings::new(&values, 2).expect("3000 rows");
    let weights: Vec<f32> = (0..3000).map(|i| (i % 13) as f32).collect();
    let all: Vec<usize> = (0..3000).collect();
    for weights in [None, Some(&weights[..])] {
        let picks = k_center(pool, &all, Known::nothing(), 300, weights, Caps::none(), &mut rng(3));
        assert_eq!(picks, Ok(plain(pool, Known::nothing(), 300, weights, 3)));
    }
}

/// The largest distance from a point to its nearest of `chosen`.
fn radius(points: &[(f32, f32)], chosen: &[usize]) -> f32 {
    let distance = |a: (f32, f32), b: (f32, f32)| (a.0 - b.0).hypot(a.1 - b.1);
    let nearest =
        |&p: &(f32, f32)| chosen.iter().map(|&c| distance(p, points[c])).fold(f32::INFINITY, f32::min);
    points.iter().map(nearest).fold(0.0, f32::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // Coordinates on a coarse grid make ties and duplicates frequent.
    #[test]
    fn the_picks_are_those_of_the_plain_algorithm(
        coordinates in prop::collection::vec(0u8..6, 3..240),
        known in 0usize..40,
        k in 1usize..40,
        seed in 0u8..255,
    ) {
        let values: Vec<f32> = coordinates.iter().map(|&c| f32::from(c)).collect();
        let pool = Embeddings::new(&values[..values.len() / 3 * 3], 3).expect("rows of three");
        let labelled: Vec<f32> =
            (0..known).flat_map(|i| [(i % 5) as f32, (i % 3) as f32 + 0.5, 2.0]).collect();
        let known = Known { labelled: Embeddings::new(&labelled, 3).expect("rows"), planned: &[] };
        let weights: Vec<f32> = (0..pool.len()).map(|i| (i % 4) as f32).collect();
        let all: Vec<usize> = (0..pool.len()).collect();
        for weights in [None, Some(&weights[..])] {
            let picks = k_center(pool, &all, known, k, weights, Caps::none(), &mut rng(seed));
            prop_assert_eq!(picks, Ok(plain(pool, known, k, weights, seed)));
        }
    }

    #[test]
    fn the_radius_is_at_most_twice_the_best(
        points in prop::collection::vec((0f32..1.0, 0f32..1.0), 4..11),
        k in 1usize..4,
        seed in 0u8..255,
    ) {
        let values: Vec<f32> = points.iter().flat_map(|&(x, y)| [x, y]).collect();
        let pool = Embeddings::new(&values, 2).expect("rows of two");
        let all: Vec<usize> = (0..pool.len()).collect();
        let chosen = rows(k_center(pool, &all, Known::nothing(), k, None, Caps::none(), &mut rng(seed)));
        let best = (0u32..1 << points.len())
            .filter(|set| set.count_ones() as usize == k)
            .map(|set| {
                let chosen: Vec<usize> = (0..points.len()).filter(|i| set >> i & 1 == 1).collect();
                radius(&points, &chosen)
            })
            .fold(f32::INFINITY, f32::min);
        prop_assert!(radius(&points, &chosen) <= 2.0 * best + 1e-3);
    }
}
