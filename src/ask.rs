//! `active-vlm predict`: one question about a picture or several, answered on the command line.
//!
//! Invariant: the path of the service's own Predict, less pools and versions; the only file written is the one asked for.

mod heat;

use crate::engine::{Engine, EngineConfig, PredictItem, Prediction};
use anyhow::Context as _;
use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

/// Choices shown at most.
const SHOWN: usize = 10;

/// What to ask whom.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The model's Hugging Face folder; engine.model_dir unless given.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// The picture: PNG, JPEG or WebP; given once for each where the question is about several.
    #[arg(long = "image", value_name = "FILE", required = true)]
    pub images: Vec<PathBuf>,
    /// The question.
    #[arg(long)]
    pub question: String,
    /// An answer to choose from, given once for each; free text without any.
    #[arg(long = "choice", value_name = "ANSWER")]
    pub choices: Vec<String>,
    /// Reason before answering.
    #[arg(long)]
    pub reasoning: bool,
    /// Write a PNG of the picture with where the answer looks; of several pictures one each, numbered.
    #[arg(long, value_name = "FILE")]
    pub attention: Option<PathBuf>,
}

/// Loads the model, asks and prints what it says.
///
/// # Errors
/// When the picture or the model cannot be read, or the question cannot be asked.
pub async fn run(mut config: EngineConfig, args: Args) -> anyhow::Result<()> {
    let read = |path: &PathBuf| {
        std::fs::read(path)
            .with_context(|| format!("reading {}: give the path of a PNG, JPEG or WebP", path.display()))
    };
    let images: Vec<bytes::Bytes> =
        args.images.iter().map(|path| read(path).map(Into::into)).collect::<anyhow::Result<_>>()?;
    if let Some(dir) = args.model {
        config.model_dir = dir;
    }
    let engine = Engine::start(config).await?;
    let choices = args.choices;
    let item = PredictItem {
        images: images.clone(),
        question: args.question,
        choices: choices.clone(),
        reasoning: args.reasoning,
        attention: args.attention.is_some(),
    };
    let said = engine.predict(None, item).await??;
    print!("{}", words(&said, &choices));
    let Some(path) = args.attention else { return Ok(()) };
    for (at, (map, image)) in said.attention.iter().zip(&images).enumerate() {
        let path = numbered(&path, at, images.len());
        heat::draw(image, map, &path)?;
        println!("attention    {:.0} % on this picture: {}", map.mass * 100.0, path.display());
    }
    Ok(())
}

/// `map.png`, or of several `map-1.png` and so on.
fn numbered(path: &Path, at: usize, of: usize) -> PathBuf {
    if of == 1 {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{}.png", at + 1))
}

fn words(said: &Prediction, choices: &[String]) -> String {
    let mut text = format!("answer       {}\n", said.answer);
    if !said.reasoning.is_empty() {
        let _ = writeln!(text, "reasoning    {}", said.reasoning.trim());
    }
    if choices.is_empty() {
        let _ = writeln!(text, "probability  {:.3}", said.log_prob.exp());
    }
    let of = if choices.is_empty() { "per token" } else { "over the choices" };
    let _ = writeln!(text, "uncertainty  {:.3} nats {of}", said.uncertainty);
    let mut weighed: Vec<(&String, f32)> = choices.iter().zip(said.probabilities.iter().copied()).collect();
    weighed.sort_by(|a, b| b.1.total_cmp(&a.1));
    for (choice, probability) in weighed.iter().take(SHOWN) {
        let _ = writeln!(text, "  {probability:.3}      {choice}");
    }
    if weighed.len() > SHOWN {
        let _ = writeln!(text, "  and {} choices less likely", weighed.len() - SHOWN);
    }
    let _ = writeln!(text, "tokens       {} read, {} written", said.tokens_read, said.tokens_written);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(probabilities: &[f32]) -> Prediction {
        Prediction {
            answer: "7".into(),
            reasoning: " Row 1 column 2 is 7.".into(),
            log_prob: -0.5,
            probabilities: probabilities.to_vec(),
            uncertainty: 0.25,
            tokens_read: 64,
            tokens_written: 0,
            attention: Vec::new(),
        }
    }

    #[test]
    fn choices_come_likeliest_first() {
        let text = words(&said(&[0.2, 0.7, 0.1]), &["1".into(), "7".into(), "9".into()]);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["reasoning", "Row", "1", "column", "2", "is", "7."]);
        assert_eq!(rows[2], ["uncertainty", "0.250", "nats", "over", "the", "choices"]);
        assert_eq!(rows[3..6], [["0.700", "7"], ["0.200", "1"], ["0.100", "9"]]);
    }

    #[test]
    fn several_maps_are_numbered() {
        assert_eq!(numbered(Path::new("out/map.png"), 0, 1), Path::new("out/map.png"));
        assert_eq!(numbered(Path::new("out/map.png"), 1, 2), Path::new("out/map-2.png"));
    }

    #[test]
    fn free_text_has_no_choices_and_many_are_cut() {
        assert!(words(&said(&[]), &[]).contains("nats per token"));
        let many: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert!(words(&said(&[1.0 / 12.0; 12]), &many).contains("and 2 choices less likely"));
    }
}
