//! TypiClust: the most typical sample of each large cluster without a label (arXiv 2202.02794).
//!
//! Made for the first rounds, when a model's uncertainty means little yet.
//! Invariant: the next pick is always in a cluster with the fewest labelled and picked samples.
//! Deliberately absent: any look at the model's answers.

use rand::Rng;

use super::caps::{Caps, Room};
use super::clusters::Clusters;
use super::embeddings::Embeddings;
use super::known::Known;
use super::neighbours::mean_gaps;
use super::sweep::Normed;
use super::{SelectError, draw};

/// Candidates that are clustered; of a larger number as many are drawn uniformly, or four times the picks.
const MOST_CANDIDATES: usize = 20_000;
/// Clusters at most, and the size below which a cluster comes last: both as in the paper.
const MOST_CLUSTERS: usize = 500;
const SMALL: usize = 5;
/// Neighbours that typicality is measured by, as in the paper.
const NEIGHBOURS: usize = 20;

/// Picks `k` candidates: the largest of the least covered clusters, and in it the most typical sample left.
///
/// Clusters are those of k-means, as many as there will be labels but 500 at most; typicality is the inverse of the
/// mean distance to the 20 nearest in the cluster. Works on 20,000 candidates drawn uniformly (or `4 k`); what they
/// cannot give because of caps is drawn from the rest.
pub fn typiclust(
    pool: Embeddings<'_>,
    candidates: &[usize],
    known: Known<'_>,
    k: usize,
    caps: Caps<'_>,
    rng: &mut impl Rng,
) -> Result<Vec<usize>, SelectError> {
    known.check(pool)?;
    if candidates.is_empty() || k == 0 {
        return Ok(Vec::new());
    }
    let mut drawn = candidates.to_vec();
    let seen = draw::sample_front(&mut drawn, MOST_CANDIDATES.max(k.saturating_mul(4)), rng).len();
    let (rows, others) = drawn.split_at(seen);
    let normed = Normed::copy(pool.only(rows));
    let labels = known.labelled.len() + known.planned.len() + k;
    let clusters = Clusters::find(&normed, labels.min(MOST_CLUSTERS), rng);
    let mut covered = vec![0usize; clusters.count()];
    for labelled in [known.labelled.all(), pool.only(known.planned)] {
        clusters.assign(labelled).into_iter().for_each(|cluster| covered[cluster] += 1);
    }
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); clusters.count()];
    clusters.of.iter().enumerate().for_each(|(at, &cluster)| members[cluster].push(at));
    let sizes: Vec<usize> = members.iter().map(Vec::len).collect();
    // The most typical last, so that it is the next to be popped; none until the cluster's turn comes.
    let mut ranked: Vec<Option<Vec<usize>>> = vec![None; clusters.count()];

    let mut room = Room::new(caps);
    let mut picks = Vec::with_capacity(k.min(rows.len()));
    let mut open: Vec<usize> = (0..clusters.count()).filter(|&cluster| sizes[cluster] > 0).collect();
    while picks.len() < k {
        let turn = |&cluster: &usize| {
            (sizes[cluster] < SMALL, covered[cluster], std::cmp::Reverse(sizes[cluster]), cluster)
        };
        let Some(cluster) = open.iter().copied().min_by_key(turn) else { break };
        let left = ranked[cluster].get_or_insert_with(|| by_typicality(&normed, &members[cluster]));
        match left.pop() {
            None => open.retain(|&other| other != cluster),
            Some(at) if room.try_take(rows[at]) => {
                picks.push(rows[at]);
                covered[cluster] += 1;
            }
            Some(_) => {}
        }
    }
    let missing = k - picks.len();
    picks.extend(others.iter().copied().filter(|&row| room.try_take(row)).take(missing));
    Ok(picks)
}

/// Positions `members`, the least typical first.
fn by_typicality(rows: &Normed, members: &[usize]) -> Vec<usize> {
    let gaps = mean_gaps(&Normed::copy(rows.select(members).rows()), NEIGHBOURS);
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by(|&a, &b| gaps[b].total_cmp(&gaps[a]).then(b.cmp(&a)));
    order.into_iter().map(|at| members[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::caps::{GroupCap, Limit};
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// Crowds of 40 around 0, 20 around 50 and 10 around 100, the middle of each the most typical.
    fn crowds() -> Vec<f32> {
        let crowd = |count: i32, place: f32| {
            (0..count).map(move |i| {
                let off = (i - count / 2) as f32;
                place + 0.01 * off * off.abs()
            })
        };
        crowd(40, 0.0).chain(crowd(20, 50.0)).chain(crowd(10, 100.0)).collect()
    }

    fn pick(labelled: &[f32], k: usize, caps: Caps<'_>) -> Vec<usize> {
        let line = crowds();
        let pool = Embeddings::new(&line, 1).expect("seventy rows");
        let known = Known { labelled: Embeddings::new(labelled, 1).expect("rows"), planned: &[] };
        let all: Vec<usize> = (0..pool.len()).collect();
        typiclust(pool, &all, known, k, caps, &mut ChaCha8Rng::from_seed([2; 32])).expect("one space")
    }

    #[test]
    fn the_middle_of_the_largest_crowds_comes_first() {
        let picks = pick(&[], 3, Caps::none());
        assert!(picks[0].abs_diff(20) <= 12 && (40..60).contains(&picks[1]) && picks[2] >= 60, "{picks:?}");
    }

    #[test]
    fn a_labelled_crowd_waits() {
        let picks = pick(&[0.0], 2, Caps::none());
        assert!((40..60).contains(&picks[0]) && picks[1] >= 60, "{picks:?}");
    }

    #[test]
    fn caps_hold_and_everything_is_picked_in_the_end() {
        assert_eq!(pick(&[], 100, Caps::none()).len(), 70);
        let groups: Vec<u32> = (0..70).map(|i| u32::from(i >= 40)).collect();
        let image = Some(GroupCap { groups: &groups, limit: Limit::Each(1) });
        assert_eq!(pick(&[], 5, Caps { image, ..Caps::none() }).len(), 2);
    }
}
