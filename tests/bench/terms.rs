//! [terms] What the funnel spends on every term of the information value, beside asking for every view, wording and
//! chain of every sample apart.

use super::report::Report;
use active_vlm::engine::{Cost, Deep, DeepItem, Engine, ScoreItem};
use active_vlm::lab::{DigitBoards, PoolSpec, Split};
use std::time::Instant;

/// Samples of the pool.
const POOL: usize = 1_000;
/// Samples that are asked apart; the rest of the pool would take as long each.
const APART: usize = 20;
/// What the funnel's tiers take of the pool: 15 % and 5 % at random get views and wordings, four times a batch of 30 gets
/// chains.
const VIEWED: usize = POOL / 5;
const CHAINED: usize = 120;
const HOW: Deep = Deep { views: 3, chains: 8, temperature: 0.9, seed: 1, beside: false };
/// Other wordings of a question.
const WORDINGS: [&str; 2] = ["Look at the board.", "Say it."];

pub async fn run(report: &mut Report) -> anyhow::Result<()> {
    eprintln!("terms: {POOL} digit boards by tiers, {APART} of them apart");
    let engine = Engine::start(super::engine_config()?).await?;
    let spec = PoolSpec { n: POOL, redundancy: 0.3, long_tail: 1.0 };
    let pool: Vec<ScoreItem> = DigitBoards::new(Split::Pool, 1)
        .pool(spec)
        .into_iter()
        .map(|s| ScoreItem { images: vec![s.image_png.into()], question: s.question, choices: s.choices })
        .collect();
    let warm = pool[..APART].iter().map(worded).collect();
    engine.look_deeper(None, warm, Deep { chains: 0, beside: true, ..HOW }).await?;

    let start = Instant::now();
    let mut cost = engine.score(None, pool.clone()).await?.cost;
    let viewed = pool[..VIEWED].iter().map(worded).collect();
    cost += engine.look_deeper(None, viewed, Deep { chains: 0, beside: true, ..HOW }).await?.cost;
    let chained = pool[..CHAINED].iter().map(|item| DeepItem { item: item.clone(), paraphrases: Vec::new() });
    cost += engine.look_deeper(None, chained.collect(), Deep { views: 1, ..HOW }).await?.cost;
    let (seconds, tokens) = (start.elapsed().as_secs_f64(), cost.padded_tokens as f64);

    // The same samples all together at full depth: what sharing alone saves.
    let start = Instant::now();
    let deep = engine.look_deeper(None, pool[..APART].iter().map(worded).collect(), HOW).await?.cost;
    let shared = (start.elapsed().as_secs_f64() * scale(), deep.padded_tokens as f64 * scale());

    let start = Instant::now();
    let apart = apart(&engine, &pool[..APART]).await?;
    let (apart_seconds, apart_tokens) =
        (start.elapsed().as_secs_f64() * scale(), apart.padded_tokens as f64 * scale());
    let peer = "every view, wording and chain apart";
    report.less("terms.tokens", tokens, "tokens", (peer, apart_tokens), 0.2);
    report.less("terms", seconds, "s", (peer, apart_seconds), 1.0 / 3.0);
    report.less("terms.shared_tokens", shared.1, "tokens", (peer, apart_tokens), 1.0);
    report.less("terms.shared", shared.0, "s", (peer, apart_seconds), 1.0);
    Ok(())
}

fn scale() -> f64 {
    POOL as f64 / APART as f64
}

fn worded(item: &ScoreItem) -> DeepItem {
    let paraphrases = WORDINGS.map(|words| format!("{words} {}", item.question)).to_vec();
    DeepItem { item: item.clone(), paraphrases }
}

/// One call per view, wording and chain over all `items`: each reads its whole prompt again. (A view costs what the whole
/// picture costs, so it stands for all of them.)
async fn apart(engine: &Engine, items: &[ScoreItem]) -> anyhow::Result<Cost> {
    let mut cost = Cost::default();
    for seed in 0..(HOW.views * HOW.chains) as u64 {
        for wording in 0..=WORDINGS.len() {
            let one = |item: &ScoreItem| {
                let mut all = worded(item);
                if wording > 0 {
                    all.item.question = all.paraphrases.swap_remove(wording - 1);
                }
                DeepItem { item: all.item, paraphrases: Vec::new() }
            };
            let how = Deep { views: 1, chains: 1, seed, ..HOW };
            cost += engine.look_deeper(None, items.iter().map(one).collect(), how).await?.cost;
        }
    }
    Ok(cost)
}
