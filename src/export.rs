//! `active-vlm export`: a trained version, or an adapter, as files that other programs read.
//!
//! Invariant: a version is named by the sha256 of its weights, as the API shows it, and read from the blob storage of the
//! settings; no database is asked. Deliberately absent: the writing, which is the engine's.

use crate::{
    blobs::{BlobKey, BlobKind, Blobs},
    engine::{self, EngineConfig, Learnt},
};
use anyhow::Context as _;
use std::path::PathBuf;

/// What to write where.
#[derive(Debug, Clone, clap::Args)]
#[command(group(clap::ArgGroup::new("learnt").required(true)))]
pub struct Args {
    /// A version, by the sha256 of its weights: `weights_sha256` of `ModelService.GetVersion`.
    #[arg(long, value_name = "SHA256", group = "learnt")]
    pub weights: Option<String>,
    /// An adapter folder as PEFT writes it.
    #[arg(long, value_name = "DIR", group = "learnt")]
    pub adapter: Option<PathBuf>,
    /// The base model's Hugging Face folder; engine.model_dir unless given.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// The new folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Fold an adapter into the weights and write a complete model.
    #[arg(long)]
    pub merge: bool,
}

/// Reads, writes, and says what was written.
///
/// # Errors
/// When the weights are not there or not of this base, or the folder cannot be written.
pub async fn run(config: &EngineConfig, blobs: &Blobs, args: Args) -> anyhow::Result<()> {
    let base = args.model.as_ref().unwrap_or(&config.model_dir);
    let bytes;
    let learnt = match (&args.weights, &args.adapter) {
        (Some(sha256), _) => {
            let key = BlobKey::from_digest(BlobKind::Adapter, &digest(sha256)?);
            bytes =
                blobs.get(&key).await.context("reading the version from the blob storage of the settings")?;
            Learnt::Snapshot(&bytes)
        }
        (None, Some(dir)) => Learnt::Adapter(dir),
        (None, None) => anyhow::bail!("name a version by --weights or an adapter by --adapter"),
    };
    let written = engine::export(base, learnt, &args.out, args.merge)?;
    println!("{written}: {}", args.out.display());
    Ok(())
}

fn digest(text: &str) -> anyhow::Result<[u8; 32]> {
    let byte = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
    let whole = bytes.filter(|_| text.len() == 64).and_then(|bytes| bytes.try_into().ok());
    whole.with_context(|| format!("{text:?} is no sha256: it has 64 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
    }

    fn args(out: &Path, merge: bool) -> Args {
        Args {
            weights: None,
            adapter: Some(golden("qwen3-tiny.lora")),
            model: Some(golden("qwen3-tiny")),
            out: out.to_owned(),
            merge,
        }
    }

    #[tokio::test]
    async fn an_adapter_goes_out_as_one_or_folded_into_a_whole_model_that_serves() {
        let (config, folder) = (EngineConfig::default(), tempfile::tempdir().expect("a folder"));
        let blobs = Blobs::open(None, &folder.path().join("blobs")).expect("a storage");
        let (adapter, whole) = (folder.path().join("adapter"), folder.path().join("whole"));
        run(&config, &blobs, args(&adapter, false)).await.expect("an adapter");
        assert!(adapter.join("adapter_config.json").exists() && !adapter.join("config.json").exists());
        run(&config, &blobs, args(&whole, true)).await.expect("a model");
        let engine = engine::Engine::start(EngineConfig { model_dir: whole.clone(), ..config.clone() }).await;
        assert_eq!(engine.expect("serves").info().model, "whole");
        let twice = run(&config, &blobs, args(&whole, true)).await.expect_err("nothing is written over");
        assert!(twice.to_string().contains("exists"), "{twice}");
    }

    #[tokio::test]
    async fn a_version_is_found_by_its_weights() {
        let (config, folder) = (EngineConfig::default(), tempfile::tempdir().expect("a folder"));
        let blobs = Blobs::open(None, &folder.path().join("blobs")).expect("a storage");
        let model = golden("smolvlm-tiny");
        let engine = engine::Engine::start(EngineConfig { model_dir: model.clone(), ..config.clone() });
        let engine = engine.await.expect("starts");
        let spec = engine::TrainingSpec {
            base: None,
            trainable: engine::Trainable::Lora { rank: 2, alpha: 4.0, dropout: 0.0 },
            learning_rate: 1e-3,
            warmup: 0,
            total_steps: 1,
            weight_decay: 0.0,
            grad_clip: 1.0,
            shrink: 1.0,
            seed: 1,
            objective: engine::Objective::default(),
            resume: None,
        };
        let (fork, _) = engine.begin_training(spec).await.expect("a fork");
        let snapshot = engine.snapshot(fork).await.expect("a snapshot");
        let key = blobs.put(BlobKind::Adapter, snapshot.into()).await.expect("kept");
        let named = |weights: &str, out: &str| Args {
            weights: Some(weights.to_owned()),
            adapter: None,
            model: Some(model.clone()),
            out: folder.path().join(out),
            merge: false,
        };
        run(&config, &blobs, named(key.sha256(), "version")).await.expect("an adapter");
        assert!(folder.path().join("version/adapter_model.safetensors").exists());
        let unknown = run(&config, &blobs, named(&"0".repeat(64), "other")).await.expect_err("not there");
        assert!(format!("{unknown:#}").contains("blob storage"), "{unknown:#}");
        assert!(run(&config, &blobs, named("abc", "other")).await.is_err());
    }
}
