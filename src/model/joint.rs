//! A training pass: prompts, and the replies that go on from their keys and values, forwards and back.
//!
//! Gradient checkpointing (Chen et al., arXiv 1604.06174): only what enters each layer is kept, and a layer is computed
//! again when its gradient is due. Invariant: it changes no number. Dropout draws from torch's generator, which is
//! therefore seeded before each layer, with or without checkpointing.
//! Deliberately absent: the loss, which is `training`'s.

use tch::{TchError, Tensor, no_grad};

use super::text::{Look, Step, View};
use super::{Inputs, KvCache, Vlm};

/// What the attention of some tokens is to be like.
pub struct Gaze<'a> {
    /// From which tokens of each reply, int64 `[n, k]`; the mean over them counts.
    pub from: Tensor,
    /// A layer's attention, mean over heads, float32 `[n, prompt + T]` -> a scalar that is added to the loss.
    #[allow(clippy::type_complexity)]
    pub loss: Box<dyn Fn(&Tensor) -> Tensor + 'a>,
}

impl std::fmt::Debug for Gaze<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gaze").field("from", &self.from).finish_non_exhaustive()
    }
}

/// Replies to some of the prompts, padded on the right.
#[derive(Debug)]
pub struct Replies<'a> {
    /// The prompt of each, int64 `[n]`.
    pub rows: Tensor,
    /// `[n, T, D]`.
    pub embeds: Tensor,
    /// int64 `[n, prompt + T]`: what is real of prompt and reply.
    pub mask: Tensor,
    /// What attention is to be like, in the later half of the layers, where answers are formed.
    pub gaze: Option<Gaze<'a>>,
}

/// How a pass is computed.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// Seeds dropout, with the layer's place.
    pub seed: i64,
    /// Whether layers are computed twice instead of being kept.
    pub checkpointing: bool,
}

impl Vlm {
    /// Final-normed hidden states of the prompts `[B, T, D]` and of each group of replies, through `loss` and back: adds
    /// to the gradients of everything trained.
    ///
    /// Errors are torch's own: of the backward pass.
    pub fn joint(
        &self,
        prompts: &Inputs,
        replies: &[Replies<'_>],
        pass: Pass,
        loss: impl FnOnce(&Tensor, &[Tensor]) -> Tensor,
    ) -> Result<(), TchError> {
        let joint = Joint { vlm: self, prompts, replies, pass, views: self.views(prompts, replies) };
        match pass.checkpointing {
            false => joint.kept(loss),
            true => joint.computed_twice(loss),
        }
    }

    /// As [`Vlm::joint`], forwards only: what the prompts and each group of replies come to. No gradients are kept.
    pub fn read(&self, prompts: &Inputs, replies: &[Replies<'_>], seed: i64) -> (Tensor, Vec<Tensor>) {
        no_grad(|| {
            let pass = Pass { seed, checkpointing: false };
            let joint = Joint { vlm: self, prompts, replies, pass, views: self.views(prompts, replies) };
            let through = |states: Vec<Tensor>, index| {
                let (out, _) = joint.layer(index, &states);
                joint.deepen(index, out)
            };
            let mut hidden = joint.finish(&(0..joint.layers()).fold(joint.start(), through));
            let replies = hidden.split_off(1);
            (hidden.swap_remove(0), replies)
        })
    }

    fn views(&self, prompts: &Inputs, replies: &[Replies<'_>]) -> Vec<View> {
        let past = prompts.len();
        let of = |group: &Replies<'_>| {
            let shift = prompts.shift.as_ref().map(|shift| shift.index_select(0, &group.rows));
            let (embeds, mask) = (&group.embeds, &group.mask);
            self.decoder.view(
                &Step { embeds, mask, positions: None, sees: None, deep: &[] },
                past,
                shift.as_ref(),
            )
        };
        std::iter::once(self.decoder.view(&prompts.step(), 0, None)).chain(replies.iter().map(of)).collect()
    }
}

/// One pass, with what every layer needs.
struct Joint<'a> {
    vlm: &'a Vlm,
    prompts: &'a Inputs,
    replies: &'a [Replies<'a>],
    pass: Pass,
    views: Vec<View>,
}

impl Joint<'_> {
    /// What enters the first layer: the prompts, then each group of replies.
    fn start(&self) -> Vec<Tensor> {
        let replies = self.replies.iter().map(|group| group.embeds.shallow_clone());
        std::iter::once(self.prompts.embeds.shallow_clone()).chain(replies).collect()
    }

    fn layers(&self) -> usize {
        self.vlm.decoder.depth()
    }

    /// One layer, without what is added after it, and what its attention adds to the loss.
    fn layer(&self, index: usize, states: &[Tensor]) -> (Vec<Tensor>, Option<Tensor>) {
        tch::manual_seed(self.pass.seed.wrapping_add(index as i64));
        let decoder = &self.vlm.decoder;
        let mut cache = KvCache::new();
        let mut out = vec![decoder.layer(index, &states[0], &self.views[0], Some((0, &mut cache)), None)];
        let mut losses = Vec::new();
        for ((group, state), view) in self.replies.iter().zip(&states[1..]).zip(&self.views[1..]) {
            let (mut own, mut seen) = (cache.select(&group.rows), Vec::new());
            let gaze = group.gaze.as_ref().filter(|_| index >= self.layers() / 2);
            let look = gaze.map(|gaze| Look { from: Some(&gaze.from), into: &mut seen });
            out.push(decoder.layer(index, state, view, Some((0, &mut own)), look));
            losses.extend(gaze.iter().zip(&seen).map(|(gaze, seen)| (gaze.loss)(seen)));
        }
        // The mean over the layers that are looked at.
        let layers = (self.layers() - self.layers() / 2) as f64;
        let loss = losses.into_iter().reduce(|sum, loss| sum + loss).map(|sum| sum / layers);
        (out, loss)
    }

    /// Adds the features of further depths that belong after a layer.
    fn deepen(&self, index: usize, mut states: Vec<Tensor>) -> Vec<Tensor> {
        if let Some(deep) = self.prompts.deep.get(index) {
            states[0] = &states[0] + deep;
        }
        states
    }

    fn finish(&self, states: &[Tensor]) -> Vec<Tensor> {
        states.iter().map(|state| self.vlm.decoder.finish(state)).collect()
    }

    fn kept(&self, loss: impl FnOnce(&Tensor, &[Tensor]) -> Tensor) -> Result<(), TchError> {
        let (mut states, mut gazes) = (self.start(), Vec::new());
        for index in 0..self.layers() {
            let (out, gaze) = self.layer(index, &states);
            gazes.extend(gaze);
            states = self.deepen(index, out);
        }
        let hidden = self.finish(&states);
        let loss = loss(&hidden[0], &hidden[1..]);
        gazes.into_iter().fold(loss, |sum, gaze| sum + gaze).f_backward()
    }

    fn computed_twice(&self, loss: impl FnOnce(&Tensor, &[Tensor]) -> Tensor) -> Result<(), TchError> {
        let start = self.start();
        let mut entered = Vec::with_capacity(self.layers());
        let top = no_grad(|| {
            (0..self.layers()).fold(detached(&start), |states, index| {
                let out = self.deepen(index, self.layer(index, &states).0);
                entered.push(states);
                out
            })
        });
        let top = leaves(&top, true);
        let hidden = self.finish(&top);
        loss(&hidden[0], &hidden[1..]).f_backward()?;
        let mut slopes = gradients(&top);
        drop((top, hidden));
        // What has a past of its own (a tower that is trained, the embedding table) gets its gradients at the end.
        let mut outside: Vec<(Tensor, Tensor)> = Vec::new();
        for (index, states) in entered.into_iter().enumerate().rev() {
            if let Some(deep) = self.prompts.deep.get(index).filter(|deep| deep.requires_grad()) {
                outside.push((deep.shallow_clone(), slopes[0].shallow_clone()));
            }
            // Nothing before the first layer wants a gradient where the embeddings stand still.
            let states = leaves(&states, index > 0 || start.iter().any(Tensor::requires_grad));
            let (out, gaze) = self.layer(index, &states);
            gaze.into_iter().fold(towards(out.iter().zip(&slopes)), |sum, gaze| sum + gaze).f_backward()?;
            slopes = gradients(&states);
        }
        outside.extend(start.into_iter().zip(slopes).filter(|(state, _)| state.requires_grad()));
        match outside.is_empty() {
            true => Ok(()),
            false => towards(outside.iter().map(|(state, slope)| (state, slope))).f_backward(),
        }
    }
}

/// A scalar whose gradient by each tensor is that tensor's slope.
fn towards<'t>(pairs: impl Iterator<Item = (&'t Tensor, &'t Tensor)>) -> Tensor {
    let sums: Vec<Tensor> = pairs.map(|(state, slope)| (state * slope).sum(tch::Kind::Float)).collect();
    Tensor::stack(&sums, 0).sum(tch::Kind::Float)
}

fn detached(states: &[Tensor]) -> Vec<Tensor> {
    states.iter().map(Tensor::detach).collect()
}

fn leaves(states: &[Tensor], wanted: bool) -> Vec<Tensor> {
    states.iter().map(|state| state.detach().set_requires_grad(wanted)).collect()
}

/// Gradients of leaves; nought where none arrived.
fn gradients(leaves: &[Tensor]) -> Vec<Tensor> {
    let of = |leaf: &Tensor| {
        let gradient = leaf.grad();
        if gradient.defined() { gradient } else { leaf.detach().zeros_like() }
    };
    leaves.iter().map(of).collect()
}
