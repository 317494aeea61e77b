//! Keys and values of the tokens already seen.
//!
//! Invariant: what was handed out is never changed. New entries are written behind a cache's own length into room that
//! only this cache writes to; a cache made from another one (forked, repeated) copies before its first write.
//! Deliberately absent: paging; one cache serves one batch.

use tch::Tensor;

/// Positions of room made at once when a cache has to grow.
const ROOM: i64 = 64;

/// Keys and values per layer, `[B, kv heads, past, head dim]`, and where the next positions are.
#[derive(Debug, Default)]
pub struct KvCache {
    layers: Vec<Layer>,
    /// Where positions have axes or tokens are hidden: how far a row's next position is from the number of the tokens
    /// that its mask shows, int64 `[B, 1]`.
    pub(super) shift: Option<Tensor>,
}

#[derive(Debug)]
struct Layer {
    keys: Tensor,
    values: Tensor,
    /// Positions filled; the tensors may have room for more.
    length: i64,
    /// Whether this cache alone may write behind `length`.
    own: bool,
}

impl Layer {
    fn map(&self, change: impl Fn(&Tensor) -> Tensor) -> Layer {
        let (keys, values) = self.filled();
        Layer { keys: change(&keys), values: change(&values), length: self.length, own: false }
    }

    fn filled(&self) -> (Tensor, Tensor) {
        (self.keys.narrow(2, 0, self.length), self.values.narrow(2, 0, self.length))
    }
}

impl KvCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of positions held, padding included.
    pub fn len(&self) -> i64 {
        self.layers.first().map_or(0, |layer| layer.length)
    }

    /// Whether nothing is held yet.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// A cache of one row as `n` equal rows, without copying until they differ.
    pub fn repeat(&self, n: i64) -> KvCache {
        let widen = |t: &Tensor| t.expand([n, -1, -1, -1], false);
        let shift = self.shift.as_ref().map(|t| t.expand([n, -1], false));
        KvCache { layers: self.layers.iter().map(|layer| layer.map(widen)).collect(), shift }
    }

    /// A cache of the given rows (int64 `[n]`, may repeat), in their order.
    pub fn select(&self, rows: &Tensor) -> KvCache {
        let pick = |t: &Tensor| t.index_select(0, rows);
        let shift = self.shift.as_ref().map(pick);
        KvCache { layers: self.layers.iter().map(|layer| layer.map(pick)).collect(), shift }
    }

    /// The same cache, to be continued in another way.
    pub fn fork(&self) -> KvCache {
        let shift = self.shift.as_ref().map(Tensor::shallow_clone);
        KvCache { layers: self.layers.iter().map(|layer| layer.map(Tensor::shallow_clone)).collect(), shift }
    }

    /// The same cache with `by` (int64 `[B, 1]`) added to where each row's next positions are: for rows whose mask hides
    /// some of what is held, so that what follows stands where it would without.
    pub fn moved(mut self, by: &Tensor) -> KvCache {
        self.shift = Some(self.shift.map_or_else(|| by.shallow_clone(), |shift| shift + by));
        self
    }

    /// Appends to a layer and returns all of its keys and values.
    pub(super) fn extend(&mut self, layer: usize, keys: Tensor, values: Tensor) -> (Tensor, Tensor) {
        let Some(slot) = self.layers.get_mut(layer) else {
            let length = keys.size()[2];
            let shared = (keys.shallow_clone(), values.shallow_clone());
            self.layers.push(Layer { keys, values, length, own: false });
            return shared;
        };
        let graph = keys.requires_grad() || slot.keys.requires_grad() || slot.values.requires_grad();
        match graph {
            // Gradients flow through what is cached: nothing may be overwritten.
            true => slot.append(keys, values),
            false => slot.write(&keys, &values),
        }
        slot.filled()
    }
}

impl Layer {
    fn append(&mut self, keys: Tensor, values: Tensor) {
        let (past_keys, past_values) = self.filled();
        self.length += keys.size()[2];
        self.keys = Tensor::cat(&[past_keys, keys], 2);
        self.values = Tensor::cat(&[past_values, values], 2);
        self.own = false;
    }

    fn write(&mut self, keys: &Tensor, values: &Tensor) {
        let new = keys.size()[2];
        if !self.own || self.length + new > self.keys.size()[2] {
            // Room for half as much again, so that copying costs a constant share.
            let room = self.length + new + ROOM.max(self.length / 2);
            self.keys = roomy(&self.keys, self.length, room);
            self.values = roomy(&self.values, self.length, room);
            self.own = true;
        }
        self.keys.narrow(2, self.length, new).copy_(keys);
        self.values.narrow(2, self.length, new).copy_(values);
        self.length += new;
    }
}

/// The first `length` positions in a tensor with room for `room`.
fn roomy(from: &Tensor, length: i64, room: i64) -> Tensor {
    let mut size = from.size();
    size[2] = room;
    let into = Tensor::empty(size, (from.kind(), from.device()));
    into.narrow(2, 0, length).copy_(&from.narrow(2, 0, length));
    into
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn entry(value: f64) -> Tensor {
        Tensor::full([1, 1, 1, 2], value, (Kind::Float, Device::Cpu))
    }

    fn held(cache: &mut KvCache, value: f64) -> Vec<f64> {
        let (keys, _) = cache.extend(0, entry(value), entry(value));
        Vec::try_from(keys.select(3, 0).view([-1])).expect("a vector")
    }

    #[test]
    fn a_fork_goes_its_own_way_whichever_is_continued_first() {
        let mut cache = KvCache::new();
        held(&mut cache, 1.0);
        assert_eq!(held(&mut cache, 2.0), [1.0, 2.0]);
        let mut fork = cache.fork();
        assert_eq!(held(&mut cache, 3.0), [1.0, 2.0, 3.0]);
        assert_eq!(held(&mut fork, 4.0), [1.0, 2.0, 4.0]);
        assert_eq!(held(&mut cache, 5.0), [1.0, 2.0, 3.0, 5.0]);
        assert_eq!((fork.len(), cache.len()), (3, 4));
    }

    #[test]
    fn what_was_handed_out_stays_as_it_was() {
        let mut cache = KvCache::new();
        held(&mut cache, 1.0);
        let (first, _) = cache.extend(0, entry(2.0), entry(2.0));
        for value in 0..200 {
            held(&mut cache, f64::from(value));
        }
        assert_eq!(Vec::<f64>::try_from(first.select(3, 0).view([-1])).expect("a vector"), [1.0, 2.0]);
    }
}
