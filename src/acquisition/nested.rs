//! Where the doubt about an answer comes from: entropies of one nested design, in nats.
//!
//! A sample is answered under views of the image (V), paraphrases of the question (Q) and sampled chains of
//! reasoning (R). Conditioning on them one after the other splits the entropy of the answer without remainder.
//! V and Q are crossed, so both orders are computed and averaged (Shapley).
//! Invariant: with [`Estimate::PlugIn`] the parts add up to `total` within 1e-5; under either estimate each lies
//! between 0 and the logarithm of the number of classes.
//! Deliberately absent: how views, paraphrases and chains are made, and the correction of one factor's term for the
//! noise of another (few chains make paraphrases look different by about `reasoning / chains`).

use super::{SelectError, check_finite};

/// The levels of each factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Design {
    /// Answer-preserving views of the image, `Nv`.
    pub views: usize,
    /// Paraphrases of the question, `Nq`.
    pub paraphrases: usize,
    /// Chains of reasoning per view and paraphrase, `K`.
    pub chains: usize,
}

/// How a mutual information is estimated from few levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimate {
    /// Entropies of the observed mixtures: exact sums, biased low for few levels.
    PlugIn,
    /// `n I - (n - 1) mean_i I(without level i)` for each factor of `n > 1` levels (Quenouille 1956), clipped to
    /// `[0, ln C]`: nearly unbiased, but the parts no longer add up.
    Jackknife,
}

/// The parts of a sample's doubt, each in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// `I(Y;V)`: what changes with the view. 0 when there is one view, which measures nothing.
    pub visual: f32,
    /// `I(Y;Q)`: what changes with the wording. 0 when there is one paraphrase.
    pub language: f32,
    /// `I(Y;R|V,Q)` over readable chains; `None` when no view and paraphrase has two of them.
    pub reasoning: Option<f32>,
    /// What differs between readable and unreadable chains, or among the unreadable: a fault of form and no reason
    /// to buy a label. 0 without a mask.
    pub unreadable: f32,
    /// `Hr`: the doubt that is left within a chain.
    pub residual: f32,
    /// `H0`, the entropy of the mixture of everything:
    /// `visual + language + reasoning + unreadable + residual` under [`Estimate::PlugIn`].
    pub total: f32,
}

/// Splits the doubt of one sample.
///
/// `p` is `[Nv, Nq, K, C]`, row-major, each row a distribution over `classes` answers. `readable` is `[Nv, Nq, K]`
/// and false for chains that could not be parsed: they count for views and paraphrases, where they are answers like
/// any other (a class of their own), and stay out of `reasoning`.
pub fn terms(
    p: &[f32],
    classes: usize,
    design: Design,
    readable: Option<&[bool]>,
    estimate: Estimate,
) -> Result<Terms, SelectError> {
    let Design { views, paraphrases, chains } = design;
    let rows = views * paraphrases * chains;
    if rows == 0 {
        return Err(SelectError::Config(format!(
            "a design needs one level of each factor at least: {design:?}"
        )));
    }
    let p = distributions("probabilities", p, rows, classes)?;
    if let Some(mask) = readable.filter(|mask| mask.len() != rows) {
        return Err(SelectError::Shape { column: "readable", expected: rows, got: mask.len() });
    }
    let cells: Vec<f64> = p.chunks_exact(chains * classes).flat_map(|cell| mixture(cell, classes)).collect();
    let (all_views, all_paraphrases) = (0..views, 0..paraphrases);
    let crossed = |v: &[usize], q: &[usize]| Crossed::of(&cells, paraphrases, classes, v, q);
    let v: Vec<usize> = all_views.collect();
    let q: Vec<usize> = all_paraphrases.collect();
    let whole = crossed(&v, &q);
    let inner = Inner::of(&p, classes, chains, readable, estimate);

    let ceiling = (classes as f64).ln();
    let (mut visual, mut language) = (whole.visual, whole.language);
    if estimate == Estimate::Jackknife {
        visual = jackknife(visual, &v, |rest| crossed(rest, &q).visual);
        language = jackknife(language, &q, |rest| crossed(&v, rest).language);
    }
    let clip = |nats: f64| nats.clamp(0.0, ceiling) as f32;
    Ok(Terms {
        visual: clip(visual),
        language: clip(language),
        reasoning: inner.reasoning.map(clip),
        unreadable: clip(inner.unreadable),
        residual: clip(inner.residual),
        total: clip(whole.total),
    })
}

/// What posterior samples of the weights disagree on: `H(mean_t P_t) - mean_t H(P_t)` in nats (BALD, arXiv
/// 1112.5745), between 0 and `ln C`.
///
/// `members` is `[M, C]`; one member disagrees with nobody and gives 0.
pub fn model_term(members: &[f32], classes: usize, estimate: Estimate) -> Result<f32, SelectError> {
    let rows = members.len() / classes.max(1);
    if rows == 0 {
        return Err(SelectError::Config("the model term needs one member at least".into()));
    }
    let p = distributions("members", members, rows, classes)?;
    let nats = match estimate {
        Estimate::PlugIn => divergence(&p, classes),
        Estimate::Jackknife => jackknife_rows(&p, classes),
    };
    Ok(nats.clamp(0.0, (classes as f64).ln()) as f32)
}

/// The terms of the crossed factors over some of their levels.
struct Crossed {
    total: f64,
    visual: f64,
    language: f64,
}

impl Crossed {
    fn of(cells: &[f64], paraphrases: usize, classes: usize, v: &[usize], q: &[usize]) -> Self {
        let cell = |v: usize, q: usize| &cells[(v * paraphrases + q) * classes..][..classes];
        let mean = |list: &[Vec<f64>]| list.iter().map(|p| entropy(p)).sum::<f64>() / list.len() as f64;
        let by_view: Vec<Vec<f64>> =
            v.iter().map(|&v| blend(q.iter().map(|&q| cell(v, q)), classes)).collect();
        let by_wording: Vec<Vec<f64>> =
            q.iter().map(|&q| blend(v.iter().map(|&v| cell(v, q)), classes)).collect();
        let total = entropy(&blend(by_view.iter().map(Vec::as_slice), classes));
        let (given_v, given_q) = (mean(&by_view), mean(&by_wording));
        let both: f64 = v.iter().flat_map(|&v| q.iter().map(move |&q| entropy(cell(v, q)))).sum();
        let given_both = both / (v.len() * q.len()) as f64;
        Self {
            total,
            visual: 0.5 * ((total - given_v) + (given_q - given_both)),
            language: 0.5 * ((given_v - given_both) + (total - given_q)),
        }
    }
}

/// The terms within the cells of one view and one paraphrase.
struct Inner {
    reasoning: Option<f64>,
    unreadable: f64,
    residual: f64,
}

impl Inner {
    fn of(p: &[f64], classes: usize, chains: usize, mask: Option<&[bool]>, estimate: Estimate) -> Self {
        let rows = p.len() / classes;
        let cells = (rows / chains) as f64;
        let (mut within, mut reasoning, mut seen, mut heard) = (0.0, 0.0, 0usize, 0usize);
        for (i, cell) in p.chunks_exact(chains * classes).enumerate() {
            within += divergence(cell, classes) / cells;
            let kept: Vec<f64> = cell
                .chunks_exact(classes)
                .enumerate()
                .filter(|(k, _)| mask.is_none_or(|mask| mask[i * chains + k]))
                .flat_map(|(_, row)| row.iter().copied())
                .collect();
            let readable = kept.len() / classes;
            heard += readable;
            if readable >= 2 {
                seen += readable;
                let nats = match estimate {
                    Estimate::PlugIn => divergence(&kept, classes),
                    Estimate::Jackknife => jackknife_rows(&kept, classes),
                };
                // Weighted by the share of chains that can be read, as the chain rule has it.
                reasoning += nats * readable as f64;
            }
        }
        // A lone readable chain shows nothing; the jackknife lets the other cells speak for its cell, the plug-in
        // counts it as 0 so that the sum stays exact.
        let share = match estimate {
            Estimate::PlugIn => 1.0 / rows as f64,
            Estimate::Jackknife => heard as f64 / (rows * seen.max(1)) as f64,
        };
        let reasoning = (seen > 0).then_some(reasoning * share);
        let unreadable = match (mask, reasoning) {
            (None, _) => 0.0,
            (Some(_), part) => within - part.unwrap_or(0.0),
        };
        let residual = p.chunks_exact(classes).map(entropy).sum::<f64>() / rows as f64;
        Self { reasoning, unreadable, residual }
    }
}

/// Checks that every row of `[rows, classes]` is a distribution, and normalises it in float64: rounding in float32
/// would otherwise show as information.
fn distributions(
    column: &'static str,
    p: &[f32],
    rows: usize,
    classes: usize,
) -> Result<Vec<f64>, SelectError> {
    if p.len() != rows * classes {
        return Err(SelectError::Shape { column, expected: rows * classes, got: p.len() });
    }
    check_finite(column, p)?;
    let mut out: Vec<f64> = p.iter().map(|&p| f64::from(p)).collect();
    for (row, p) in out.chunks_exact_mut(classes).enumerate() {
        let sum: f64 = p.iter().sum();
        if p.iter().any(|&p| p < 0.0) || (sum - 1.0).abs() > 0.01 {
            let message = format!("row {row} of {column} is not a distribution: it adds up to {sum}");
            return Err(SelectError::Config(message));
        }
        p.iter_mut().for_each(|p| *p /= sum);
    }
    Ok(out)
}

fn entropy(p: &[f64]) -> f64 {
    -p.iter().filter(|&&p| p > 0.0).map(|&p| p * p.ln()).sum::<f64>()
}

fn blend<'a>(rows: impl Iterator<Item = &'a [f64]>, classes: usize) -> Vec<f64> {
    let (mut sum, mut n) = (vec![0.0; classes], 0.0);
    for row in rows {
        sum.iter_mut().zip(row).for_each(|(sum, p)| *sum += p);
        n += 1.0;
    }
    sum.iter_mut().for_each(|sum| *sum /= n);
    sum
}

fn mixture(rows: &[f64], classes: usize) -> Vec<f64> {
    blend(rows.chunks_exact(classes), classes)
}

/// `H(mean) - mean H` of the rows: what a row's index tells of the answer.
fn divergence(rows: &[f64], classes: usize) -> f64 {
    let n = (rows.len() / classes) as f64;
    entropy(&mixture(rows, classes)) - rows.chunks_exact(classes).map(entropy).sum::<f64>() / n
}

fn jackknife(whole: f64, levels: &[usize], without: impl Fn(&[usize]) -> f64) -> f64 {
    let n = levels.len();
    if n < 2 {
        return whole;
    }
    let rest = |i: usize| [&levels[..i], &levels[i + 1..]].concat();
    let left_out = (0..n).map(|i| without(&rest(i))).sum::<f64>() / n as f64;
    n as f64 * whole - (n - 1) as f64 * left_out
}

fn jackknife_rows(rows: &[f64], classes: usize) -> f64 {
    let levels: Vec<usize> = (0..rows.len() / classes).collect();
    jackknife(divergence(rows, classes), &levels, |kept| {
        let rows: Vec<f64> = kept.iter().flat_map(|&i| rows[i * classes..][..classes].to_vec()).collect();
        divergence(&rows, classes)
    })
}

#[cfg(test)]
mod tests {
    use super::super::chance;
    use super::*;
    use proptest::prelude::*;
    use std::f32::consts::LN_2;

    const fn design(views: usize, paraphrases: usize, chains: usize) -> Design {
        Design { views, paraphrases, chains }
    }

    fn plain(p: &[f32], design: Design) -> Terms {
        terms(p, 2, design, None, Estimate::PlugIn).expect("distributions")
    }

    #[test]
    fn each_factor_alone_gets_the_doubt_that_it_causes() {
        let flips = [1.0, 0.0, 0.0, 1.0];
        let zero = Terms {
            visual: 0.0,
            language: 0.0,
            reasoning: None,
            unreadable: 0.0,
            residual: 0.0,
            total: LN_2,
        };
        assert_eq!(plain(&flips, design(2, 1, 1)), Terms { visual: LN_2, ..zero });
        assert_eq!(plain(&flips, design(1, 2, 1)), Terms { language: LN_2, ..zero });
        assert_eq!(plain(&flips, design(1, 1, 2)), Terms { reasoning: Some(LN_2), ..zero });
        assert_eq!(plain(&[0.5, 0.5], design(1, 1, 1)), Terms { residual: LN_2, ..zero });
    }

    #[test]
    fn an_answer_that_needs_view_and_wording_together_is_shared_between_them() {
        // Answer = view xor wording: neither alone tells anything, both together everything.
        let both = plain(&[1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0], design(2, 2, 1));
        assert!((both.visual - LN_2 / 2.0).abs() < 1e-6 && (both.language - LN_2 / 2.0).abs() < 1e-6);
    }

    #[test]
    fn unreadable_chains_stay_out_of_reasoning() {
        // Three classes, the last one "could not be read". Chains: yes, no, unreadable, unreadable.
        let p = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]].concat();
        let split = |mask: &[bool]| terms(&p, 3, design(1, 1, 4), Some(mask), Estimate::PlugIn);
        let t = split(&[true, true, false, false]).expect("distributions");
        // Half of the chains can be read, and those differ by ln 2; readable or not is one more fair coin.
        assert!((t.reasoning.expect("two are readable") - LN_2 / 2.0).abs() < 1e-6);
        assert!((t.unreadable - LN_2).abs() < 1e-6 && (t.total - 1.5 * LN_2).abs() < 1e-6);
        for mask in [[true, false, false, false], [false; 4]] {
            assert_eq!(split(&mask).expect("distributions").reasoning, None, "{mask:?}");
        }
    }

    #[test]
    fn four_near_votes_show_half_of_the_information_and_the_jackknife_most_of_it() {
        let votes = [0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05];
        let sharp = |class: usize| (0..8).map(move |c| if c == class { 0.93 } else { 0.01 });
        let mixed: Vec<f64> = votes.iter().map(|v| 0.92 * v + 0.01).collect();
        let truth = entropy(&mixed) - entropy(&sharp(0).collect::<Vec<f64>>());
        let mut rng = chance::stream(7);
        let mut found = [0.0, 0.0];
        for _ in 0..500 {
            let mut p = Vec::new();
            for _ in 0..4 {
                let mut u = chance::unit(&mut rng);
                let class = votes.iter().position(|v| {
                    u -= v;
                    u < 0.0
                });
                p.extend(sharp(class.unwrap_or(7)).map(|p| p as f32));
            }
            for (estimate, found) in [Estimate::PlugIn, Estimate::Jackknife].into_iter().zip(&mut found) {
                let t = terms(&p, 8, design(1, 1, 4), None, estimate).expect("distributions");
                *found += f64::from(t.reasoning.expect("four chains")) / truth / 500.0;
                assert_eq!(t.reasoning, model_term(&p, 8, estimate).ok(), "one factor is one factor");
            }
        }
        let [plug_in, jackknife] = found;
        assert!((0.5..0.75).contains(&plug_in), "{plug_in}");
        assert!((0.8..1.05).contains(&jackknife), "{jackknife}");
    }

    #[test]
    fn what_is_not_a_distribution_is_refused_by_row() {
        let refused = |p: &[f32]| terms(p, 2, design(2, 1, 1), None, Estimate::PlugIn);
        assert!(matches!(refused(&[1.0; 3]), Err(SelectError::Shape { expected: 4, got: 3, .. })));
        assert!(matches!(refused(&[1.0, 0.0, f32::NAN, 1.0]), Err(SelectError::NonFinite { index: 2, .. })));
        assert!(matches!(refused(&[1.0, 0.0, 0.5, 0.1]), Err(SelectError::Config(m)) if m.contains("row 1")));
        assert!(model_term(&[], 2, Estimate::PlugIn).is_err());
    }

    prop_compose! {
        fn case()(views in 1usize..4, paraphrases in 1usize..4, chains in 1usize..5, classes in 2usize..6)(
            weights in prop::collection::vec(0.0f32..1.0, views * paraphrases * chains * classes),
            mask in prop::collection::vec(any::<bool>(), views * paraphrases * chains),
            design in Just(design(views, paraphrases, chains)),
            classes in Just(classes),
        ) -> (Vec<f32>, Vec<bool>, Design, usize) {
            let sharp: Vec<f32> = weights.iter().map(|w| w.powi(8) + 1e-6).collect();
            let rows = sharp.chunks_exact(classes).map(|row| (row, row.iter().sum::<f32>()));
            (rows.flat_map(|(row, sum)| row.iter().map(move |w| w / sum)).collect(), mask, design, classes)
        }
    }

    proptest! {
        #[test]
        fn the_parts_add_up_and_stay_in_range((p, mask, design, classes) in case(), masked in any::<bool>()) {
            let mask = masked.then_some(&mask[..]);
            let t = terms(&p, classes, design, mask, Estimate::PlugIn).expect("distributions");
            let sum = t.visual + t.language + t.reasoning.unwrap_or(0.0) + t.unreadable + t.residual;
            prop_assert!((sum - t.total).abs() < 1e-5, "{t:?}");
            let j = terms(&p, classes, design, mask, Estimate::Jackknife).expect("distributions");
            for t in [t, j] {
                for part in [t.visual, t.language, t.reasoning.unwrap_or(0.0), t.unreadable, t.residual, t.total] {
                    prop_assert!(part >= 0.0 && part <= (classes as f32).ln() + 1e-6, "{t:?}");
                }
            }
        }
    }
}
