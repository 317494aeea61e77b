//! Draws of the last layer: how much the weights themselves are in doubt, for the price of a few products.
//!
//! Monte-Carlo dropout (arXiv 1506.02142) of what enters the head. Invariant: the draws depend on the width alone, so
//! distributions of one draw belong together across samples, shards, processes and versions (EPIG needs that).
//! Deliberately absent: dropout in deeper layers, which would take a pass of the decoder each.

use crate::model::Vlm;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

/// Share of hidden units that a draw leaves out.
const RATE: f64 = 0.2;
const SEED: u64 = 0x5eed_d4a3;

/// `count` masks `[D]` in the kind and on the device of the model: 0 or `1 / (1 - RATE)`.
pub(super) fn masks(vlm: &Vlm, count: usize) -> Vec<Tensor> {
    let width = vlm.config().text.hidden_size as usize;
    let one = |member: usize| {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        rng.set_stream(member as u64);
        let kept = |_| if rng.random_bool(RATE) { 0.0 } else { (1.0 / (1.0 - RATE)) as f32 };
        let mask: Vec<f32> = (0..width).map(kept).collect();
        Tensor::from_slice(&mask).to_kind(vlm.kind()).to_device(vlm.device())
    };
    (0..count).map(one).collect()
}
