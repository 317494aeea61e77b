//! `active-vlm predict`: one question about one picture, answered on the command line.
//!
//! Invariant: the path of the service's own Predict, less pools and versions. Deliberately absent: files to write.

use crate::engine::{Engine, EngineConfig, PredictItem, Prediction};
use anyhow::Context as _;
use std::{fmt::Write, path::PathBuf};

/// Choices shown at most.
const SHOWN: usize = 10;

/// What to ask whom.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The model's Hugging Face folder; engine.model_dir unless given.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// The picture: PNG, JPEG or WebP.
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// The question.
    #[arg(long)]
    pub question: String,
    /// An answer to choose from, given once for each; free text without any.
    #[arg(long = "choice", value_name = "ANSWER")]
    pub choices: Vec<String>,
    /// Reason before answering.
    #[arg(long)]
    pub reasoning: bool,
}

/// Loads the model, asks and prints what it says.
///
/// # Errors
/// When the picture or the model cannot be read, or the question cannot be asked.
pub async fn run(mut config: EngineConfig, args: Args) -> anyhow::Result<()> {
    let image = std::fs::read(&args.image).with_context(|| format!("reading {}", args.image.display()))?;
    if let Some(dir) = args.model {
        config.model_dir = dir;
    }
    let engine = Engine::start(config).await?;
    let choices = args.choices;
    let item = PredictItem {
        images: vec![image.into()],
        question: args.question,
        choices: choices.clone(),
        reasoning: args.reasoning,
    };
    let said = engine.predict(None, item).await??;
    print!("{}", words(&said, &choices));
    Ok(())
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
    let _ = writeln!(text, "tokens       {}", said.tokens);
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
            tokens: 64,
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
    fn free_text_has_no_choices_and_many_are_cut() {
        assert!(words(&said(&[]), &[]).contains("nats per token"));
        let many: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert!(words(&said(&[1.0 / 12.0; 12]), &many).contains("and 2 choices less likely"));
    }
}
