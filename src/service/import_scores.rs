//! ImportScores: figures of samples that a client brings, each judged by itself.
//!
//! Invariant: what passes here can be selected by: finite, within its range, and of the pool's one length of embedding.
//! Whether selection uses it is the policy's `use_imported`; scores that stand keep the figures they were made with.

use super::Service;
use crate::{
    domain::{Result, Split},
    store::NewImport,
};

/// Numbers of an embedding at most.
const DIM_MAX: usize = 16_384;
/// The largest number that float16 holds.
const HALF_MAX: f32 = 65_504.0;

/// Figures of one sample on their way in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImportItem {
    /// The client's id of the sample.
    pub sample: String,
    /// Entropy of the answer, nats.
    pub entropy: Option<f32>,
    /// One less the gap between the two likeliest answers, in [0, 1].
    pub margin: Option<f32>,
    /// Information value, nats.
    pub value: Option<f32>,
    /// Where the sample lies; empty brings none.
    pub embedding: Vec<f32>,
}

/// What became of one sample's figures: why they were refused, or nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportVerdict {
    /// The client's id of the sample.
    pub sample: String,
    /// What was wrong and what to do; none where they were taken.
    pub refused: Option<String>,
}

impl Service {
    /// Takes a chunk of imported figures; the answer is in their order.
    ///
    /// # Errors
    /// `NotFound` or `NotReady` for the pool; what is wrong with an item is in its own verdict.
    pub async fn import_scores(&self, pool: &str, items: Vec<ImportItem>) -> Result<Vec<ImportVerdict>> {
        let pool = self.active_pool(pool).await?;
        let mut faults: Vec<Option<String>> = items.iter().map(fault).collect();
        let sound = || items.iter().zip(&faults).filter(|(_, fault)| fault.is_none()).map(|(item, _)| item);
        let names: Vec<String> = sound().map(|item| item.sample.clone()).collect();
        let known = self.store.sample_ids(pool.id, &names).await?;
        // A stranger's embedding must not settle the length.
        let first = sound().find(|item| known.contains_key(&item.sample) && !item.embedding.is_empty());
        let dim = match first.map(|item| item.embedding.len()) {
            Some(dim) => self.store.settle_imported_dim(pool.id, dim).await?,
            None => 0,
        };
        let mut new = Vec::new();
        for (item, fault) in items.iter().zip(&mut faults).filter(|(_, fault)| fault.is_none()) {
            match known.get(&item.sample) {
                None => *fault = Some("there is no such sample: add it first".to_owned()),
                Some((_, split)) if *split != Split::Pool => {
                    *fault = Some("its split is for evaluation: nothing of it is ever planned".to_owned());
                }
                Some(_) if !item.embedding.is_empty() && item.embedding.len() != dim => {
                    let len = item.embedding.len();
                    *fault = Some(format!(
                        "its embedding has {len} numbers, those of the pool have {dim}: bring all from one model"
                    ));
                }
                Some((sample, _)) => new.push(NewImport {
                    sample: *sample,
                    entropy: item.entropy,
                    margin: item.margin,
                    value: item.value,
                    embedding: item.embedding.clone(),
                }),
            }
        }
        if !new.is_empty() {
            self.store.import_scores(pool.id, &new, self.now()).await?;
        }
        metrics::counter!("active_vlm_scores_imported_total").increment(new.len() as u64);
        let verdicts = items.into_iter().zip(faults);
        Ok(verdicts.map(|(item, refused)| ImportVerdict { sample: item.sample, refused }).collect())
    }
}

/// What is wrong with an item by itself.
fn fault(item: &ImportItem) -> Option<String> {
    let nats = |what: &str, number: Option<f32>| {
        let number = number.filter(|number| !(0.0..=1e6).contains(number))?;
        Some(format!("its {what} is {number}: must be nats, 0 to 1,000,000"))
    };
    if item.entropy.or(item.margin).or(item.value).is_none() && item.embedding.is_empty() {
        return Some("it brings nothing: set entropy, margin, value or embedding".to_owned());
    }
    if let Some(fault) = nats("entropy", item.entropy).or_else(|| nats("value", item.value)) {
        return Some(fault);
    }
    if let Some(margin) = item.margin.filter(|margin| !(0.0..=1.0).contains(margin)) {
        return Some(format!("its margin is {margin}: must be 0 to 1, 1 being least sure"));
    }
    if item.embedding.len() > DIM_MAX {
        let len = item.embedding.len();
        return Some(format!("its embedding has {len} numbers, at most {DIM_MAX} are allowed: project it"));
    }
    // NaN is within no range.
    let strange = item.embedding.iter().position(|x| !(-HALF_MAX..=HALF_MAX).contains(x))?;
    let number = item.embedding[strange];
    Some(format!("number {strange} of its embedding is {number}: must be finite and fit float16"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_out_of_their_range_are_refused_with_the_number() {
        let with = |change: fn(&mut ImportItem)| {
            let mut item = ImportItem { sample: "a".to_owned(), entropy: Some(0.5), ..ImportItem::default() };
            change(&mut item);
            fault(&item)
        };
        assert_eq!(with(|_| {}), None);
        for (change, part) in [
            ((|i| i.entropy = None) as fn(&mut ImportItem), "nothing"),
            (|i| i.entropy = Some(f32::NAN), "entropy"),
            (|i| i.value = Some(-1.0), "value"),
            (|i| i.margin = Some(1.5), "margin"),
            (|i| i.embedding = vec![0.0, f32::INFINITY], "number 1"),
            (|i| i.embedding = vec![1e5], "float16"),
            (|i| i.embedding = vec![0.0; DIM_MAX + 1], "project"),
        ] {
            let fault = with(change).expect(part);
            assert!(fault.contains(part), "{fault}");
        }
    }
}
