//! Dealing out: which claim of a group gets which place.
//!
//! Invariant: no annotator gets a sample that it skipped, holds or has labelled, nor the same one twice, and no sample
//! goes out beyond the overlap. The first look at the queue is plain, as nearly all claims need no more; further ones
//! pass over, in Postgres, what those still short of queries cannot take.

use super::{
    claim_desk::Waiting,
    claim_pick::{Picked, Reach, pick},
};
use crate::domain::{Pool, Result, Time};
use sqlx::PgConnection;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// Places locked by one look beyond what is missing, at most.
const PAGE: usize = 1_000;

/// Picks free places under lock and deals them out, first come, first served, until all have theirs or none is left.
pub(super) async fn deal(
    conn: &mut PgConnection,
    pool: &Pool,
    group: &[Waiting],
    wants: &[usize],
    dealt: &mut [Vec<Picked>],
    now: Time,
) -> Result<()> {
    // Claims that name groups look at their part of the queue only.
    let mut filters: Vec<&[String]> = group.iter().map(|w| w.request.groups.as_slice()).collect();
    filters.sort();
    filters.dedup();
    let max_labels = pool.policy.max_labels as usize;
    let mut given: HashSet<(&str, Uuid)> = HashSet::new();
    let mut handed: HashMap<Uuid, usize> = HashMap::new();
    for filter in filters {
        let members: Vec<usize> = (0..group.len()).filter(|&i| group[i].request.groups == filter).collect();
        let largest = members.iter().map(|&i| wants[i]).max().unwrap_or(0);
        // The places of a sample stand side by side and go to different annotators.
        let mut page = (largest * max_labels).min(PAGE);
        let mut reach = Reach { after: (-1, -1, Uuid::nil()), groups: filter, takers: Vec::new() };
        loop {
            let short = || members.iter().copied().filter(|&i| dealt[i].len() < wants[i]);
            let missing: usize = short().map(|i| wants[i] - dealt[i].len()).sum();
            if missing == 0 {
                break;
            }
            if reach.after.0 >= 0 {
                reach.takers = short().map(|i| group[i].request.annotator.clone()).collect();
                page = (page * 2).min(PAGE);
            }
            let picked = pick(conn, pool, &reach, page.max(missing), now).await?;
            let Some(last) = picked.last() else { break };
            reach.after = (last.rank, last.slot, last.sample_id);
            for place in picked {
                let out = handed.get(&place.sample_id).copied().unwrap_or(0);
                if place.others.len() + out >= max_labels + place.extra {
                    continue;
                }
                let taker = members.iter().copied().find(|&i| {
                    let annotator = group[i].request.annotator.as_str();
                    dealt[i].len() < wants[i]
                        && !place.bars(annotator)
                        && !given.contains(&(annotator, place.sample_id))
                });
                if let Some(i) = taker {
                    given.insert((&group[i].request.annotator, place.sample_id));
                    handed.insert(place.sample_id, out + 1);
                    dealt[i].push(place);
                }
            }
        }
    }
    Ok(())
}
