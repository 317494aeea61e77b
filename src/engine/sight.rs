//! Visual tokens: each image through the tower once.
//!
//! Invariant: the cache holds visual tokens only of towers that stand still, and at most its limit of bytes.
//! Deliberately absent: pixels, which are gone after the pass.

use super::Cost;
use super::flops;
use super::prepare::Picture;
use crate::model::{Visual, Vlm};
use std::collections::{BTreeMap, HashMap};

/// Which tower made the tokens: 0 is the base's.
pub(super) type Tower = u64;

type Key = (Tower, [u8; 32]);

/// Visual tokens of images seen before, least recently used first out.
#[derive(Debug)]
pub(super) struct VisionCache {
    limit: usize,
    bytes: usize,
    clock: u64,
    tokens: HashMap<Key, (Visual, u64)>,
    order: BTreeMap<u64, Key>,
}

impl VisionCache {
    pub fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, clock: 0, tokens: HashMap::new(), order: BTreeMap::new() }
    }

    fn get(&mut self, key: Key) -> Option<Visual> {
        let (tokens, used) = self.tokens.get_mut(&key)?;
        self.order.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.order.insert(self.clock, key);
        Some(tokens.clone())
    }

    fn put(&mut self, key: Key, tokens: &Visual) {
        let size = bytes(tokens);
        if size > self.limit || self.tokens.contains_key(&key) {
            return;
        }
        self.clock += 1;
        self.bytes += size;
        self.tokens.insert(key, (tokens.clone(), self.clock));
        self.order.insert(self.clock, key);
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((gone, _)) = self.tokens.remove(&oldest) {
                self.bytes -= bytes(&gone);
            }
        }
    }

    /// Forgets everything of a tower that is gone.
    pub fn forget(&mut self, tower: Tower) {
        let gone: Vec<Key> = self.tokens.keys().filter(|key| key.0 == tower).copied().collect();
        for key in gone {
            if let Some((tokens, used)) = self.tokens.remove(&key) {
                self.bytes -= bytes(&tokens);
                self.order.remove(&used);
            }
        }
    }
}

fn bytes(tokens: &Visual) -> usize {
    tokens.features.numel() * tokens.features.kind().elt_size_in_bytes()
}

/// What the decoder is given of each picture, in order; equal pictures share one pass.
///
/// `tower` names a tower that stands still; without it nothing is looked up or kept (and gradients flow).
/// `budget` bounds the patches of one pass.
pub(super) fn see(
    vlm: &Vlm,
    pictures: &[&Picture],
    tower: Option<Tower>,
    cache: &mut VisionCache,
    budget: usize,
    cost: &mut Cost,
) -> Vec<Visual> {
    let mut seen: HashMap<[u8; 32], Visual> = HashMap::new();
    let mut new: Vec<&Picture> = Vec::new();
    for picture in pictures {
        if seen.contains_key(&picture.key) || new.iter().any(|p| p.key == picture.key) {
            continue;
        }
        match tower.and_then(|tower| cache.get((tower, picture.key))) {
            Some(tokens) => {
                seen.insert(picture.key, tokens);
            }
            None => new.push(picture),
        }
    }
    while !new.is_empty() {
        let mut patches = 0;
        let count = new.iter().take_while(|p| {
            patches += flops::patches(vlm.config(), p.pixels.cut);
            patches <= budget as u64
        });
        let rest = new.split_off(count.count().max(1));
        let group = std::mem::replace(&mut new, rest);
        let pixels: Vec<_> = group.iter().map(|p| &p.pixels).collect();
        cost.flops += pixels.iter().map(|p| flops::vision(vlm.config(), p.cut)).sum::<f64>();
        for (picture, visual) in group.iter().zip(vlm.see(&pixels)) {
            if let Some(tower) = tower {
                // A copy, so that one kept picture does not keep the whole pass's memory.
                let own = Visual { features: visual.features.detach().copy(), cut: visual.cut };
                cache.put((tower, picture.key), &own);
            }
            seen.insert(picture.key, visual);
        }
    }
    pictures.iter().map(|p| seen[&p.key].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Cut;

    #[test]
    fn the_cache_stays_within_its_bytes_and_drops_the_least_recently_used() {
        let zeros = || tch::Tensor::zeros([4, 2], (tch::Kind::Float, tch::Device::Cpu)); // 32 bytes
        let tokens = || Visual { features: zeros(), cut: Cut::WHOLE };
        let key = |n: u8| (0, [n; 32]);
        let mut cache = VisionCache::new(64);
        cache.put(key(1), &tokens());
        cache.put(key(2), &tokens());
        assert!(cache.get(key(1)).is_some());
        cache.put(key(3), &tokens());
        assert!(cache.get(key(2)).is_none(), "the least recently used is gone");
        assert!(cache.get(key(1)).is_some() && cache.get(key(3)).is_some());
        assert_eq!(cache.bytes, 64);
        cache.forget(0);
        assert_eq!((cache.bytes, cache.order.len()), (0, 0));
    }
}
