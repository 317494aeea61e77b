//! A question under many views, wordings and chains: the distributions that method.md, section 1.1 splits into nats.
//!
//! What comes before the question (system text and images) is read once per image; a view hides some of its visual
//! tokens from what follows by the attention mask alone, and every wording and chain goes on from the same keys and
//! values. So Nv x Nq x K distributions cost one pass over the image and some short continuations.
//! Invariant: a view that hides nothing, the question as it is and no chain give what `scoring` gives (up to rounding).
//! What follows a hidden token stands where it would without. Deliberately absent: entropies, which callers take.

use super::chains::{Chain, room};
use super::memory;
use super::prepare::{ANSWER_TOKENS, Picture, Question};
use super::scoring::{Scorer, packs, softmax};
use super::sight::see;
use super::{Beside, Deep, Depth, EngineError, ItemError};
use crate::domain::label::normalise;
use crate::model::{Generation, KvCache, Sampling, generate_from, score_answers_drawn};
use tch::{Kind, Tensor};

/// Answers of an open space that are told apart at most; what they leave is one class.
const ANSWERS: usize = 8;

/// One question in all its wordings, the first as it is.
#[derive(Debug, Clone)]
pub(super) struct Wordings(pub Vec<Question>);

impl Wordings {
    pub(super) fn first(&self) -> &Question {
        &self.0[0]
    }

    /// A number of its own for each question: by its tokens and pictures.
    pub(super) fn stream(&self) -> u64 {
        let words = self.first().prompt.iter().map(|&id| id as u64);
        let pictures = self.first().pictures.iter().flat_map(|p| p.key.iter().map(|&byte| u64::from(byte)));
        // FNV-1a, by whole numbers.
        words.chain(pictures).fold(0xcbf2_9ce4_8422_2325, |hash, x| (hash ^ x).wrapping_mul(0x0100_0000_01b3))
    }
}

/// One distribution to be found: of which question, under which view, in which wording.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    pub question: usize,
    pub view: usize,
    pub wording: usize,
    pub chain: usize,
}

/// What comes before the questions, read once.
pub(super) struct Before {
    cache: KvCache,
    /// int64 `[prefixes, T]`.
    mask: Tensor,
    /// Which prefix each question's each wording goes on from.
    of: Vec<Vec<i64>>,
    /// What each view of each question hides.
    pub(super) hidden: Vec<Vec<Option<Hidden>>>,
}

/// Bool `[T]`, true where a token is hidden, and how many are.
type Hidden = (Tensor, i64);

impl Before {
    /// T.
    pub fn past(&self) -> usize {
        self.mask.size()[1] as usize
    }
}

impl Scorer<'_> {
    /// The distributions of every question; answers in their order.
    pub fn look_deeper(&mut self, questions: &[&Wordings], how: &Deep) -> memory::Each<Depth> {
        let _guard = tch::no_grad_guard();
        let mut order: Vec<usize> = (0..questions.len()).collect();
        order.sort_by_key(|&at| (questions[at].first().paths.is_empty(), questions[at].first().len()));
        let lengths: Vec<(bool, usize)> = order
            .iter()
            .map(|&at| (questions[at].first().paths.is_empty(), questions[at].first().len()))
            .collect();
        let mut found: Vec<Option<Result<Depth, ItemError>>> = vec![None; questions.len()];
        for range in packs(&lengths, self.budget) {
            let places = &order[range];
            let batch: Vec<&Wordings> = places.iter().map(|&at| questions[at]).collect();
            let depths = memory::halving(&batch, &mut |part: &[&Wordings]| self.deepen(part, how))?;
            for (&at, depth) in places.iter().zip(depths) {
                found[at] = Some(depth);
            }
        }
        // Every place is in exactly one pack, so none is left out.
        Ok(found.into_iter().flatten().collect())
    }

    fn deepen(&mut self, batch: &[&Wordings], how: &Deep) -> memory::Each<Depth> {
        memory::rehearse(batch.len());
        let mut before = self.read_before(batch)?;
        let looks = (how.views > 1 || how.beside).then(|| self.looks(batch, &before));
        if let Some(looks) = looks.as_ref().filter(|_| how.views > 1) {
            self.choose_views(batch, how, looks, &mut before);
        }
        let chains_per_cell = how.chains.max(1);
        let views = how.views.max(1);
        let mut cells = Vec::new();
        for (question, wordings) in batch.iter().enumerate() {
            for view in 0..views {
                for wording in 0..wordings.0.len() {
                    cells.extend((0..chains_per_cell).map(|chain| Cell { question, view, wording, chain }));
                }
            }
        }
        let chains: Vec<Option<Chain>> = match how.chains {
            0 => vec![None; cells.len()],
            _ => self.sample(batch, how, &before, &cells).into_iter().map(Some).collect(),
        };
        let mark = self.preparer.mark().to_vec();
        let lead = |chain: &Option<Chain>| chain.as_ref().map_or(mark.clone(), |c| c.lead(self.preparer));
        let texts: Vec<Vec<i64>> = cells
            .iter()
            .zip(&chains)
            .map(|(cell, chain)| [batch[cell.question].suffix(cell.wording), &lead(chain)].concat())
            .collect();
        let answers = self.answer_space(batch, &before, &cells, &texts)?;
        let distributions = self.distributions(&before, &cells, &texts, &answers);
        let mut beside = match looks.filter(|_| how.beside) {
            Some(looks) => self.tell_beside(batch, views, &looks, &mut before, &answers),
            None => vec![None; batch.len()],
        };
        let mut cells = cells.iter().zip(distributions).zip(&chains).peekable();
        let mut depths = Vec::with_capacity(batch.len());
        for (question, wordings) in batch.iter().enumerate() {
            let (mut probabilities, mut parsed) = (Vec::new(), Vec::new());
            while let Some(((_, own), chain)) = cells.next_if(|((cell, _), _)| cell.question == question) {
                probabilities.extend(own);
                parsed.extend(chain.as_ref().map(|chain| chain.parsed));
            }
            let open = wordings.first().paths.is_empty();
            let depth = Depth {
                views,
                paraphrases: wordings.0.len(),
                chains: how.chains,
                classes: answers[question].texts.len() + usize::from(open),
                probabilities,
                parsed,
                answers: answers[question].texts.clone(),
                beside: beside[question].take(),
            };
            let blind = depth.beside.iter().flat_map(|beside| &beside.blind);
            let finite = depth.probabilities.iter().chain(blind).all(|p| p.is_finite());
            depths.push(if finite { Ok(depth) } else { Err(ItemError::NonFinite) });
        }
        Ok(depths)
    }

    /// Reads what comes before the questions; equal beginnings with equal pictures are one.
    pub(super) fn read_before(&mut self, batch: &[&Wordings]) -> Result<Before, EngineError> {
        let mut prefixes: Vec<&Question> = Vec::new();
        let mut of = Vec::with_capacity(batch.len());
        let same = |a: &Question, b: &Question| {
            let keys = |q: &Question| q.pictures.iter().map(|p| p.key).collect::<Vec<_>>();
            a.prompt[..a.text_from] == b.prompt[..b.text_from] && keys(a) == keys(b)
        };
        for wordings in batch {
            let mut own = Vec::with_capacity(wordings.0.len());
            for question in &wordings.0 {
                let at = prefixes.iter().position(|known| same(known, question));
                own.push(at.unwrap_or(prefixes.len()) as i64);
                if at.is_none() {
                    prefixes.push(question);
                }
            }
            of.push(own);
        }
        let pictures: Vec<&Picture> =
            prefixes.iter().flat_map(|q| q.pictures.iter().map(AsRef::as_ref)).collect();
        let visual = see(self.vlm, &pictures, self.tower, self.cache, self.budget, &mut self.cost);
        let rows: Vec<Vec<i64>> = prefixes.iter().map(|q| q.prompt[..q.text_from].to_vec()).collect();
        let inputs = self.vlm.prompts(&rows, &visual).map_err(|e| EngineError::Invalid(e.to_string()))?;
        self.count(rows.iter().map(Vec::len).sum(), rows.len() as i64, inputs.len(), 0, 0);
        let mut cache = KvCache::new();
        let _ = self.vlm.prefill(&inputs, Some(&mut cache));
        Ok(Before { cache, mask: inputs.mask, of, hidden: batch.iter().map(|_| Vec::new()).collect() })
    }

    fn tell_beside(
        &mut self,
        batch: &[&Wordings],
        views: usize,
        looks: &[Vec<f32>],
        before: &mut Before,
        answers: &[Answers],
    ) -> Vec<Option<Beside>> {
        let cells = self.without_images(batch, views, before);
        let texts: Vec<Vec<i64>> =
            batch.iter().map(|w| [w.suffix(0), self.preparer.mark()].concat()).collect();
        let blind = self.distributions(before, &cells, &texts, answers);
        let maps = batch.iter().zip(looks).map(|(w, looks)| w.maps(looks, self.preparer));
        blind.into_iter().zip(maps).map(|(blind, maps)| Some(Beside { blind, maps })).collect()
    }

    /// Samples a chain for every cell.
    pub(super) fn sample(
        &mut self,
        batch: &[&Wordings],
        how: &Deep,
        before: &Before,
        cells: &[Cell],
    ) -> Vec<Chain> {
        let texts: Vec<Vec<i64>> =
            cells.iter().map(|cell| batch[cell.question].suffix(cell.wording).to_vec()).collect();
        let own_room = |cell: &Cell| room(self.preparer, &batch[cell.question].0[cell.wording]);
        let most = cells.iter().map(own_room).max().unwrap_or(0);
        let sampling = (how.temperature > 0.0).then_some(Sampling {
            temperature: how.temperature,
            top_p: 1.0,
            seed: how.seed,
        });
        let stream = |cell: &Cell| {
            let place = ((cell.view * 64 + cell.wording) * 1024 + cell.chain) as u64;
            batch[cell.question].stream().wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        };
        let mut chains = Vec::with_capacity(cells.len());
        for range in self.chunks(before, &texts) {
            let (cache, mask, last) = self.feed(before, &cells[range.clone()], &texts[range.clone()]);
            let how = Generation {
                most,
                ends: self.preparer.ends().to_vec(),
                stops: Some(self.preparer.stops().clone()),
                sampling,
                streams: cells[range.clone()].iter().map(stream).collect(),
            };
            let past = mask.size()[1];
            let written = generate_from(self.vlm, cache, &self.vlm.logits(&last), &mask, &how);
            let (rows, longest) =
                (written.len() as i64, written.iter().map(|t| t.tokens.len()).max().unwrap_or(0) as i64);
            let real = written.iter().map(|text| text.tokens.len()).sum();
            self.count(real, rows, longest, past, rows * longest);
            let own = written.into_iter().zip(&cells[range]);
            chains.extend(own.map(|(text, cell)| Chain::of(text, own_room(cell), self.preparer)));
        }
        chains
    }

    /// The answers that each question's distributions are over: its choices, or those that its cells come to.
    fn answer_space(
        &mut self,
        batch: &[&Wordings],
        before: &Before,
        cells: &[Cell],
        texts: &[Vec<i64>],
    ) -> Result<Vec<Answers>, EngineError> {
        if batch.iter().all(|wordings| !wordings.first().paths.is_empty()) {
            let closed = |w: &&Wordings| Answers {
                texts: w.first().choices.clone(),
                paths: w.first().paths.clone(),
                open: false,
            };
            return Ok(batch.iter().map(closed).collect());
        }
        let mut said: Vec<Vec<(String, usize)>> = vec![Vec::new(); batch.len()];
        let mut place = 0;
        for range in self.chunks(before, texts) {
            let (cache, mask, last) = self.feed(before, &cells[range.clone()], &texts[range]);
            let how = Generation {
                most: self.preparer.room(mask.size()[1] as usize, ANSWER_TOKENS).max(1),
                ends: self.preparer.ends().to_vec(),
                ..Generation::default()
            };
            for answer in generate_from(self.vlm, cache, &self.vlm.logits(&last), &mask, &how) {
                let (text, own) = (self.preparer.text(&answer.tokens), &mut said[cells[place].question]);
                match own.iter_mut().find(|(known, _)| normalise(known) == normalise(&text)) {
                    Some((_, count)) => *count += 1,
                    None => own.push((text, 1)),
                }
                place += 1;
            }
        }
        let open = said.into_iter().map(|mut own| {
            own.retain(|(text, _)| !text.is_empty());
            // Stable: of equally frequent ones the first said comes first.
            own.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let texts: Vec<String> = own.into_iter().map(|(text, _)| text).take(ANSWERS).collect();
            let path = |text: &String| self.preparer.ended(text);
            // What was said can be said again; a text that the tokenizer takes for another is left to "all others".
            let (texts, paths): (Vec<_>, Vec<_>) =
                texts.iter().filter_map(|text| Some((text.clone(), path(text).ok()?))).unzip();
            Answers { texts, paths, open: true }
        });
        Ok(open.collect())
    }

    /// One distribution per cell.
    fn distributions(
        &mut self,
        before: &Before,
        cells: &[Cell],
        texts: &[Vec<i64>],
        answers: &[Answers],
    ) -> Vec<Vec<f32>> {
        let mut found = Vec::with_capacity(cells.len());
        for range in self.chunks(before, texts) {
            let own = &cells[range.clone()];
            let (cache, mask, last) = self.feed(before, own, &texts[range]);
            let paths: Vec<&[Vec<i64>]> = own.iter().map(|c| answers[c.question].paths.as_slice()).collect();
            let (mut log_probs, passes) =
                score_answers_drawn(self.vlm, &cache, &mask, &last, &paths, self.budget, &[]);
            for pass in passes {
                self.count(pass.tokens, pass.rows, pass.width, mask.size()[1], pass.tokens as i64);
            }
            let all = log_probs.swap_remove(0).into_iter().zip(own);
            found.extend(all.map(|(log_probs, cell)| answers[cell.question].distribution(&log_probs)));
        }
        found
    }

    /// Reads `texts` behind what comes before their cells: cache, mask and the last hidden states `[rows, D]`.
    pub(super) fn feed(
        &mut self,
        before: &Before,
        cells: &[Cell],
        texts: &[Vec<i64>],
    ) -> (KvCache, Tensor, Tensor) {
        let Fed { mut cache, mask, embeds } = self.prepare_rows(before, cells, texts);
        let (rows, width) = (embeds.size()[0], embeds.size()[1]);
        self.count(texts.iter().map(Vec::len).sum(), rows, width, cache.len(), rows);
        let hidden = self.vlm.decode(&embeds, &mask, Some(&mut cache));
        (cache, mask, hidden.select(1, -1))
    }

    pub(super) fn prepare_rows(&self, before: &Before, cells: &[Cell], texts: &[Vec<i64>]) -> Fed {
        let device = self.vlm.device();
        let rows: Vec<i64> = cells.iter().map(|cell| before.of[cell.question][cell.wording]).collect();
        let rows = Tensor::from_slice(&rows).to_device(device);
        // Padded on the left, so that the last column is every row's last token.
        let (ids, own) = self.vlm.batch(texts);
        let mut past = before.mask.index_select(0, &rows);
        let mut cache = before.cache.select(&rows);
        let hidden = |cell: &Cell| before.hidden[cell.question].get(cell.view).and_then(Option::as_ref);
        if cells.iter().any(|cell| hidden(cell).is_some()) {
            let nothing = past.select(0, 0).zeros_like().to_kind(Kind::Bool);
            let masks: Vec<Tensor> = cells
                .iter()
                .map(|c| hidden(c).map_or(nothing.shallow_clone(), |(mask, _)| mask.shallow_clone()))
                .collect();
            past = past.masked_fill(&Tensor::stack(&masks, 0), 0);
            let counts: Vec<i64> =
                cells.iter().map(|cell| hidden(cell).map_or(0, |(_, count)| *count)).collect();
            cache = cache.moved(&Tensor::from_slice(&counts).view([-1, 1]).to_device(device));
        }
        Fed { cache, mask: Tensor::cat(&[past, own], 1), embeds: self.vlm.embed_text(&ids) }
    }

    /// Ranges of rows that one pass holds.
    pub(super) fn chunks(&self, before: &Before, texts: &[Vec<i64>]) -> Vec<std::ops::Range<usize>> {
        let width = before.mask.size()[1] as usize + texts.iter().map(Vec::len).max().unwrap_or(0);
        let height = (self.budget / width.max(1)).max(1);
        (0..texts.len()).step_by(height).map(|from| from..(from + height).min(texts.len())).collect()
    }
}

impl Wordings {
    /// What follows the images in a wording, up to where a reasoning or the mark begins.
    pub(super) fn suffix(&self, wording: usize) -> &[i64] {
        let question = &self.0[wording];
        &question.prompt[question.text_from..]
    }
}

/// Rows about to be read.
pub(super) struct Fed {
    pub cache: KvCache,
    pub mask: Tensor,
    pub embeds: Tensor,
}

/// What a question's distributions are over.
struct Answers {
    texts: Vec<String>,
    paths: Vec<Vec<i64>>,
    open: bool,
}

impl Answers {
    /// Over the choices alone; in an open space each answer's own probability, and last what they leave.
    fn distribution(&self, log_probs: &[f32]) -> Vec<f32> {
        if !self.open {
            return softmax(log_probs);
        }
        let mut own: Vec<f32> = log_probs.iter().map(|l| l.exp().clamp(0.0, 1.0)).collect();
        let sum: f32 = own.iter().sum();
        // Answers end with the end token, so they exclude one another: more than 1 is rounding.
        own.iter_mut().for_each(|p| *p /= sum.max(1.0));
        own.push((1.0 - sum).max(0.0));
        own
    }
}
