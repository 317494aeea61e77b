//! A training pass: prompts, and the replies that go on from their keys and values, forwards and back.
//!
//! Gradient checkpointing (Chen et al., arXiv 1604.06174): only what enters each layer is kept, and a layer is computed
//! again when its gradient is due. Invariant: it changes no number. Dropout draws from torch's generator, which is
//! therefore seeded before each layer, with or without checkpointing.
//! Deliberately absent: the loss, which is `training`'s.

use tch::{TchError, Tensor, no_grad};

use super::text::{Step, View};
use super::{Inputs, KvCache, Vlm};

/// Replies to some of the prompts, padded on the right.
#[derive(Debug)]
pub struct Replies {
    /// The prompt of each, int64 `[n]`.
    pub rows: Tensor,
    /// `[n, T, D]`.
    pub embeds: Tensor,
    /// int64 `[n, prompt + T]`: what is real of prompt and reply.
    pub mask: Tensor,
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
        replies: &[Replies],
        pass: Pass,
        loss: impl FnOnce(&Tensor, &[Tensor]) -> Tensor,
    ) -> Result<(), TchError> {
        let joint = Joint { vlm: self, prompts, replies, pass, views: self.views(prompts, replies) };
        match pass.checkpointing {
            false => joint.kept(loss),
            true => joint.computed_twice(loss),
        }
    }

    fn views(&self, prompts: &Inputs, replies: &[Replies]) -> Vec<View> {
        let past = prompts.len();
        let of = |group: &Replies| {
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
    replies: &'a [Replies],
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

    /// One layer, without what is added after it.
    fn layer(&self, index: usize, states: &[Tensor]) -> Vec<Tensor> {
        tch::manual_seed(self.pass.seed.wrapping_add(index as i64));
        let decoder = &self.vlm.decoder;
        let mut cache = KvCache::new();
        let mut out = vec![decoder.layer(index, &states[0], &self.views[0], Some((0, &mut cache)), None)];
        for ((group, state), view) in self.replies.iter().zip(&states[1..]).zip(&self.views[1..]) {
            let mut own = cache.select(&group.rows);
            out.push(decoder.layer(index, state, view, Some((0, &mut own)), None));
        }
        out
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
        let through = |states: Vec<Tensor>, index| self.deepen(index, self.layer(index, &states));
        let hidden = self.finish(&(0..self.layers()).fold(self.start(), through));
        loss(&hidden[0], &hidden[1..]).f_backward()
    }

    fn computed_twice(&self, loss: impl FnOnce(&Tensor, &[Tensor]) -> Tensor) -> Result<(), TchError> {
        let start = self.start();
        let mut entered = Vec::with_capacity(self.layers());
        let top = no_grad(|| {
            (0..self.layers()).fold(detached(&start), |states, index| {
                let out = self.deepen(index, self.layer(index, &states));
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
            let out = self.layer(index, &states);
            towards(out.iter().zip(&slopes)).f_backward()?;
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
