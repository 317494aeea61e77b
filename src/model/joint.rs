//! A training pass: prompts, and the replies that go on from their keys and values, forwards and back.
//!
//! All tokens go through a layer's weights together, one after another in one matrix; only attention goes by prompts and
//! by groups of replies. On CUDA a small layer costs its kernels' starts, on a CPU few rows waste the weights' way there.
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
        let joint = Joint::new(self, prompts, replies, pass);
        match pass.checkpointing {
            false => joint.kept(loss),
            true => joint.computed_twice(loss),
        }
    }

    /// As [`Vlm::joint`], forwards only: what the prompts and each group of replies come to. No gradients are kept.
    pub fn read(&self, prompts: &Inputs, replies: &[Replies<'_>], seed: i64) -> (Tensor, Vec<Tensor>) {
        no_grad(|| {
            let pass = Pass { seed, checkpointing: false };
            let joint = Joint::new(self, prompts, replies, pass);
            let through = |state: Tensor, index| joint.deepen(index, joint.layer(index, &state).0);
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

/// One pass, with what every layer needs. Its tokens are the prompts', then each group's, row by row: `[N, D]`.
struct Joint<'a> {
    vlm: &'a Vlm,
    prompts: &'a Inputs,
    replies: &'a [Replies<'a>],
    pass: Pass,
    views: Vec<View>,
    /// Rows and tokens of the prompts and of each group.
    sizes: Vec<(i64, i64)>,
    cos: Tensor,
    sin: Tensor,
}

impl<'a> Joint<'a> {
    fn new(vlm: &'a Vlm, prompts: &'a Inputs, replies: &'a [Replies<'a>], pass: Pass) -> Self {
        let views = vlm.views(prompts, replies);
        let size = |embeds: &Tensor| (embeds.size()[0], embeds.size()[1]);
        let embeds = std::iter::once(&prompts.embeds).chain(replies.iter().map(|group| &group.embeds));
        let sizes: Vec<(i64, i64)> = embeds.map(size).collect();
        let turns: Vec<[Tensor; 2]> =
            views.iter().zip(&sizes).map(|(view, &(rows, tokens))| view.flat(rows, tokens)).collect();
        let [cos, sin] =
            [0, 1].map(|at| Tensor::cat(&turns.iter().map(|turn| &turn[at]).collect::<Vec<_>>(), 0));
        Self { vlm, prompts, replies, pass, views, sizes, cos, sin }
    }

    /// What enters the first layer.
    fn start(&self) -> Tensor {
        let replies = self.replies.iter().map(|group| group.embeds.flatten(0, 1));
        let all: Vec<Tensor> = std::iter::once(self.prompts.embeds.flatten(0, 1)).chain(replies).collect();
        Tensor::cat(&all, 0)
    }

    /// The prompts' part of a matrix of all tokens and each group's, `[rows, tokens, ..]`.
    fn split(&self, all: &Tensor) -> Vec<Tensor> {
        let lengths: Vec<i64> = self.sizes.iter().map(|(rows, tokens)| rows * tokens).collect();
        let parts = all.split_with_sizes(lengths, 0);
        let shaped = |(part, &(rows, tokens)): (&Tensor, &(i64, i64))| part.unflatten(0, [rows, tokens]);
        parts.iter().zip(&self.sizes).map(shaped).collect()
    }

    fn layers(&self) -> usize {
        self.vlm.decoder.depth()
    }

    /// One layer, without what is added after it, and what its attention adds to the loss.
    fn layer(&self, index: usize, state: &Tensor) -> (Tensor, Option<Tensor>) {
        tch::manual_seed(self.pass.seed.wrapping_add(index as i64));
        let layer = self.vlm.decoder.parts(index);
        let [q, k, v] = layer.project(state, &self.cos, &self.sin).map(|part| self.split(&part));
        let part = |at: usize| [&q, &k, &v].map(|parts| parts[at].transpose(1, 2));
        let mut cache = KvCache::new();
        let mut mixed = vec![layer.attend(part(0), &self.views[0], Some((0, &mut cache)), None)];
        let mut losses = Vec::new();
        for (at, group) in self.replies.iter().enumerate() {
            let (mut own, mut seen) = (cache.select(&group.rows), Vec::new());
            let gaze = group.gaze.as_ref().filter(|_| index >= self.layers() / 2);
            let look = gaze.map(|gaze| Look { from: Some(&gaze.from), into: &mut seen });
            mixed.push(layer.attend(part(at + 1), &self.views[at + 1], Some((0, &mut own)), look));
            losses.extend(gaze.iter().zip(&seen).map(|(gaze, seen)| (gaze.loss)(seen)));
        }
        let mixed: Vec<Tensor> = mixed.iter().map(|part| part.flatten(0, 1)).collect();
        // The mean over the layers that are looked at.
        let layers = (self.layers() - self.layers() / 2) as f64;
        let loss = losses.into_iter().reduce(|sum, loss| sum + loss).map(|sum| sum / layers);
        (layer.close(state, &Tensor::cat(&mixed, 0)), loss)
    }

    /// Adds the features of further depths that belong after a layer, to the prompts.
    fn deepen(&self, index: usize, state: Tensor) -> Tensor {
        let Some(deep) = self.prompts.deep.get(index) else { return state };
        let deep = deep.flatten(0, 1);
        let others = state.size()[0] - deep.size()[0];
        state + deep.constant_pad_nd([0, 0, 0, others])
    }

    fn finish(&self, state: &Tensor) -> Vec<Tensor> {
        self.split(&self.vlm.decoder.finish(state))
    }

    fn kept(&self, loss: impl FnOnce(&Tensor, &[Tensor]) -> Tensor) -> Result<(), TchError> {
        let (mut state, mut gazes) = (self.start(), Vec::new());
        for index in 0..self.layers() {
            let (out, gaze) = self.layer(index, &state);
            gazes.extend(gaze);
            state = self.deepen(index, out);
        }
        let hidden = self.finish(&state);
        let loss = loss(&hidden[0], &hidden[1..]);
        gazes.into_iter().fold(loss, |sum, gaze| sum + gaze).f_backward()
    }

    fn computed_twice(&self, loss: impl FnOnce(&Tensor, &[Tensor]) -> Tensor) -> Result<(), TchError> {
        let start = self.start();
        let mut entered = Vec::with_capacity(self.layers());
        let top = no_grad(|| {
            (0..self.layers()).fold(start.detach(), |state, index| {
                let out = self.deepen(index, self.layer(index, &state).0);
                entered.push(state);
                out
            })
        });
        let top = leaf(&top, true);
        let hidden = self.finish(&top);
        loss(&hidden[0], &hidden[1..]).f_backward()?;
        let mut slope = gradient(&top);
        drop((top, hidden));
        // What has a past of its own (a tower that is trained, the embedding table) gets its gradients at the end.
        let mut outside: Vec<(Tensor, Tensor)> = Vec::new();
        for (index, state) in entered.into_iter().enumerate().rev() {
            if let Some(deep) = self.prompts.deep.get(index).filter(|deep| deep.requires_grad()) {
                outside.push((deep.shallow_clone(), self.split(&slope).swap_remove(0)));
            }
            // Nothing before the first layer wants a gradient where the embeddings stand still.
            let state = leaf(&state, index > 0 || start.requires_grad());
            let (out, gaze) = self.layer(index, &state);
            gaze.into_iter().fold(towards(&[(out, slope)]), |sum, gaze| sum + gaze).f_backward()?;
            slope = gradient(&state);
        }
        if start.requires_grad() {
            outside.push((start, slope));
        }
        match outside.is_empty() {
            true => Ok(()),
            false => towards(&outside).f_backward(),
        }
    }
}

/// A scalar whose gradient by each tensor is that tensor's slope.
fn towards(pairs: &[(Tensor, Tensor)]) -> Tensor {
    let sums: Vec<Tensor> =
        pairs.iter().map(|(state, slope)| (state * slope).sum(tch::Kind::Float)).collect();
    Tensor::stack(&sums, 0).sum(tch::Kind::Float)
}

fn leaf(state: &Tensor, wanted: bool) -> Tensor {
    state.detach().set_requires_grad(wanted)
}

/// The gradient of a leaf; nought where none arrived.
fn gradient(leaf: &Tensor) -> Tensor {
    let gradient = leaf.grad();
    if gradient.defined() { gradient } else { leaf.detach().zeros_like() }
}
