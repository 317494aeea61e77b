//! `active-vlm inspect`: what a model folder holds and whether this machine can serve it and train on it.
//!
//! Invariant: the weights stay on disk; only their headers are read. Deliberately absent: the arithmetic, which is the
//! engine's.

use crate::engine::{self, EngineConfig, Survey};
use std::{fmt::Write, path::PathBuf};

/// What to look at.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The model's Hugging Face folder.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Looks at the folder and prints what it finds.
///
/// # Errors
/// When the folder is not a model that this build can run; says the cure.
pub fn run(config: &EngineConfig, args: &Args) -> anyhow::Result<()> {
    print!("{}", words(&engine::survey(&args.dir, config)?));
    Ok(())
}

fn words(found: &Survey) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        let _ = writeln!(text, "{what:<16} {value}");
    };
    let (shares, serving, training) = (found.shares, found.serving, found.training);
    line("family", format!("{} ({})", found.family, found.model_type));
    line("parameters", count(shares.total()));
    line("  vision", count(shares.vision));
    line("  connector", count(shares.connector));
    line("  decoder", count(shares.decoder));
    line("  embeddings", count(shares.embeddings));
    line("stored", format!("{}, {}", found.stored_as, size(found.stored_bytes)));
    let (width, height) = found.example;
    let tokens = match &found.visual_tokens {
        Ok(tokens) => format!("{tokens} for an image of {width}x{height}"),
        Err(why) => format!("none for an image of {width}x{height}: {why}"),
    };
    line("visual tokens", tokens);
    line("context", format!("{} tokens", found.context));

    let fits = |needed: u64| match &found.free {
        Ok(free) if needed <= *free => "fits",
        Ok(_) => "does not fit",
        Err(_) => "unknown whether it fits",
    };
    let total = |needed: u64| format!("about {}: {}", size(needed), fits(needed));
    line("to serve", total(serving.total()));
    line("  weights", format!("{} as {}", size(serving.weights), found.held_as));
    let cache = format!("{}, {} per 1,000 tokens", size(serving.cache), size(serving.cache_per_thousand));
    line("  cache", cache);
    line("  one pass", format!("{} for {} tokens", size(serving.forward), found.token_budget));
    let (plain, checkpointed) = training.totals();
    line("to train LoRA", total(plain));
    line("  weights", format!("{} as {}", size(training.weights), found.held_as));
    line("  adapters", format!("{} at rank 16, with gradients and AdamW's moments", size(training.adapters)));
    line("  one pass", format!("{} for {} tokens", size(training.activations), found.token_budget));
    line(
        "  checkpointed",
        format!("{} for a pass; all in all {}", size(training.checkpointed), total(checkpointed)),
    );
    let free = match &found.free {
        Ok(free) => format!("{}, {} free", found.device, size(*free)),
        Err(why) => format!("{}, free memory unknown: {why}", found.device),
    };
    line("device", free);
    text + "The needs are estimates from the dimensions; leave room for the library itself.\n"
}

/// A number of scalars.
fn count(scalars: u64) -> String {
    match scalars {
        0..10_000_000 => format!("{:.3} M", scalars as f64 / 1e6),
        10_000_000..10_000_000_000 => format!("{:.1} M", scalars as f64 / 1e6),
        _ => format!("{:.2} B", scalars as f64 / 1e9),
    }
}

/// A number of bytes.
fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        0.0..1_048_576.0 => format!("{:.1} KiB", bytes / 1024.0),
        1_048_576.0..1_073_741_824.0 => format!("{:.1} MiB", bytes / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn look(folder: &str, device: &str) -> Survey {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
        let config =
            EngineConfig { token_budget: 1000, device: device.to_owned(), ..EngineConfig::default() };
        engine::survey(&dir, &config).expect("a golden folder")
    }

    #[test]
    fn a_folder_of_every_family_is_described_by_its_own_numbers() {
        let found = look("smolvlm-tiny", "cpu");
        // One tile of 64 pixels in patches of 8, folded by 2: 16 tokens. 318 tokens of width 48 in the tied table.
        assert_eq!(found.visual_tokens, Ok(16));
        assert_eq!((found.shares.embeddings, found.shares.connector), (318 * 48, 48 * 32 * 4));
        // Norms 48 each; 48x48 twice, 48x16 twice, 48x72 three times a layer.
        let layer = 2 * 48 + 2 * 48 * 48 + 2 * 48 * 16 + 3 * 48 * 72;
        assert_eq!(found.shares.decoder, 3 * layer + 48);
        assert_eq!((found.context, found.serving.cache), (512, 2 * 3 * 16 * 4 * 1000));
        assert_eq!(found.serving.weights, 4 * found.shares.total());
        // 1600 pixels at most in blocks of 8: 40 x 40, 25 tokens.
        let found = look("qwen2_5-tiny", "cpu");
        assert_eq!((found.visual_tokens, found.model_type.as_str()), (Ok(25), "qwen2_5_vl"));
        // The merger: a norm of 32, 128 -> 128 -> 48 with biases.
        assert_eq!(found.shares.connector, 32 + 128 * 128 + 128 + 128 * 48 + 48);
        // Two features of depth, each through a merger of its own.
        let found = look("qwen3-tiny", "cpu");
        let merger = 128 * 128 + 128 + 128 * 48 + 48;
        assert_eq!(found.shares.connector, 3 * merger + 2 * 32 + 2 * 2 * 128);
        assert_eq!(
            found.stored_bytes,
            4 * found.shares.total() / if found.stored_as == "float32" { 1 } else { 2 }
        );
    }

    #[test]
    fn what_is_printed_says_whether_it_fits_or_that_it_is_unknown() {
        let text = words(&look("idefics3-odd", "cpu"));
        assert!(text.starts_with("family           SmolVLM / Idefics3 (idefics3)\n"), "{text}");
        assert!(text.contains(": fits\n") && text.contains("estimates"), "{text}");
        let none = Survey { free: Ok(1), ..look("qwen3-odd", "cpu") };
        assert!(words(&none).contains("does not fit"));
        assert!(words(&look("qwen3-odd", "cuda:99")).contains("free memory unknown"));
    }

    #[test]
    fn a_folder_that_is_no_model_is_refused_with_the_cure() {
        let error = engine::survey(Path::new("/nonexistent"), &EngineConfig::default()).expect_err("refused");
        assert!(error.to_string().contains("check that the model folder is complete"), "{error}");
    }
}
