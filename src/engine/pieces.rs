//! Long lists of questions, worked on piece by piece.
//!
//! While the thread works on one piece, the next is decoded off it; between two pieces predictions and training steps get
//! their turns. Invariant: one answer per item, in their order. Deliberately absent: what the work is.

use super::deep::Wordings;
use super::handle::{Engine, joined};
use super::prepare::{Album, Preparer, Question};
use super::queue::Lane;
use super::thread::Machine;
use super::{Cost, EngineError, ItemError, Target};
use futures::{StreamExt, stream::FuturesUnordered};
use std::sync::Arc;
use tokio::task::{JoinHandle, spawn_blocking};

/// Questions of one scoring command at most: between two commands the urgent ones get their turn, and while one is
/// scored the next is decoded. Four make a shard of the default size.
const CHUNK_ITEMS: usize = 64;
/// Bytes of pixels waiting in one scoring command at most (one item may exceed it alone).
const CHUNK_BYTES: usize = 64 << 20;

impl Engine {
    /// Prepares `items` and works on them piece by piece: while the devices work on one piece each, the next is decoded.
    pub(super) async fn in_pieces<I, Q, R, P, W>(
        &self,
        name: &'static str,
        target: Target,
        items: Vec<I>,
        prepare: P,
        work: W,
    ) -> Result<(Vec<Result<R, ItemError>>, Cost), EngineError>
    where
        I: Send + Sync + 'static,
        Q: Prepared,
        R: Send + 'static,
        P: Fn(&Preparer, &I, &mut Album) -> Result<Q, ItemError> + Copy + Send + 'static,
        W: Fn(&mut Machine, Vec<Q>) -> Result<(Vec<Result<R, ItemError>>, Cost), EngineError>
            + Clone
            + Send
            + 'static,
    {
        // A fork is known to the device that trains it alone.
        let devices: Vec<&Self> = match target {
            Target::Fork(_) => vec![self],
            Target::Version(_) => self.devices().collect(),
        };
        let items: Arc<[I]> = items.into();
        let mut done: Vec<Vec<Result<R, ItemError>>> = Vec::new();
        let (mut cost, mut from, mut ended) = (Cost::default(), 0, false);
        let mut free: Vec<usize> = (0..devices.len()).rev().collect();
        let mut at_work = FuturesUnordered::new();
        let mut next = self.prepare(items.clone(), from, prepare);
        loop {
            while !ended && let Some(device) = free.pop() {
                let piece = joined(next).await?;
                (from, ended) = (from + piece.len(), piece.is_empty());
                next = self.prepare(items.clone(), from, prepare);
                if !ended {
                    let (questions, errors) = split(piece);
                    let (work, engine, number) = (work.clone(), devices[device], done.len());
                    done.push(Vec::new());
                    let command = engine
                        .call(self.lane(Lane::Score), name, None, move |machine| work(machine, questions));
                    at_work.push(async move { (device, number, errors, command.await) });
                }
            }
            let Some((device, number, errors, found)) = at_work.next().await else { break };
            let (found, own) = found?;
            cost += own;
            free.push(device);
            let mut found = found.into_iter();
            // As many answers come back as questions went in, so none of the places stays empty.
            done[number] = errors
                .into_iter()
                .filter_map(|error| error.map_or_else(|| found.next(), |e| Some(Err(e))))
                .collect();
        }
        Ok((done.into_iter().flatten().collect(), cost))
    }

    /// Decodes a piece of `items` from `from` on, off the async threads; empty at their end.
    fn prepare<I, Q, P>(
        &self,
        items: Arc<[I]>,
        from: usize,
        prepare: P,
    ) -> JoinHandle<Vec<Result<Q, ItemError>>>
    where
        I: Send + Sync + 'static,
        Q: Prepared,
        P: Fn(&Preparer, &I, &mut Album) -> Result<Q, ItemError> + Send + 'static,
    {
        let (preparer, most_tokens) = (self.preparer().clone(), self.chunk_tokens());
        spawn_blocking(move || {
            let (mut piece, mut album) = (Vec::new(), Album::new());
            let (mut tokens, mut bytes) = (0, 0);
            for item in items[from..].iter().take(CHUNK_ITEMS) {
                let question = prepare(&preparer, item, &mut album);
                if let Ok(question) = &question {
                    let (own_tokens, own_bytes) = question.size();
                    tokens += own_tokens;
                    bytes += own_bytes;
                }
                piece.push(question);
                if tokens >= most_tokens || bytes >= CHUNK_BYTES {
                    break;
                }
            }
            piece
        })
    }
}

/// What a piece is made of.
pub(super) trait Prepared: Send + 'static {
    /// Tokens to read and bytes of pixels held.
    fn size(&self) -> (usize, usize);
}

impl Prepared for Question {
    fn size(&self) -> (usize, usize) {
        let pixels = self.pictures.iter().map(|p| p.pixels.data.len() * size_of::<f32>());
        (self.len(), pixels.sum())
    }
}

impl Prepared for Wordings {
    fn size(&self) -> (usize, usize) {
        let tokens = self.0.iter().map(Question::len).sum();
        // All wordings are about the same pictures.
        (tokens, self.0.first().map_or(0, |question| question.size().1))
    }
}

/// The questions, and for every place its error or none where a question stood.
fn split<Q>(piece: Vec<Result<Q, ItemError>>) -> (Vec<Q>, Vec<Option<ItemError>>) {
    let mut questions = Vec::with_capacity(piece.len());
    let errors = piece.into_iter().map(|item| item.map(|question| questions.push(question)).err()).collect();
    (questions, errors)
}
