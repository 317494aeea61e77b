//! `active-vlm doctor`: checks what the service needs, one line each, and says the cure for what is wrong.

use crate::{
    engine,
    settings::Settings,
    store::embedded::{self, EmbeddedConfig},
};
use std::{path::Path, process::ExitCode};

/// Free disk below which the doctor warns, bytes.
const DISK_LOW: u64 = 2 << 30;

/// What one check found.
struct Finding {
    what: &'static str,
    result: Result<String, String>,
}

/// Runs every check and prints what it found; fails when any check failed.
pub async fn run(settings: &Settings) -> ExitCode {
    let findings = [
        Finding { what: "libtorch", result: libtorch() },
        Finding { what: "model", result: model(settings) },
        Finding { what: "device", result: device(settings) },
        Finding { what: "postgres", result: postgres(settings).await },
        Finding { what: "disk", result: disk(&settings.state_dir) },
    ];
    let mut healthy = true;
    for Finding { what, result } in findings {
        let (mark, text) = match result {
            Ok(text) => ("ok  ", text),
            Err(text) => {
                healthy = false;
                ("FAIL", text)
            }
        };
        println!("{mark}  {what:<9} {text}");
    }
    if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// That libtorch loads is shown by this process running at all; that it computes, by a product.
fn libtorch() -> Result<String, String> {
    let rate = engine::probe::matmul_rate(0, 5) / 1e9;
    Ok(format!("float32 matrix products at {rate:.0} GFLOP/s on the CPU"))
}

fn device(settings: &Settings) -> Result<String, String> {
    engine::probe::device(&settings.engine.device).map_err(|e| e.to_string())
}

fn model(settings: &Settings) -> Result<String, String> {
    let dir = &settings.engine.model_dir;
    let summary = engine::probe::model(dir).map_err(|e| {
        format!("{e}: set engine.model_dir to a Hugging Face folder of a SmolVLM, or run `active-vlm lab pretrain`")
    })?;
    Ok(format!("{}: {summary}", dir.display()))
}

async fn postgres(settings: &Settings) -> Result<String, String> {
    match &settings.database.url {
        Some(_) => {
            let store = crate::app::connect(settings).await.map_err(|e| {
                format!("{e:#}: check database.url, or leave it unset for a private server under state_dir")
            })?;
            let pending = store.pending_migrations().await.map_err(|e| e.to_string())?;
            if pending.is_empty() {
                return Ok("the server at database.url answers, its schema is up to date".to_owned());
            }
            Err(format!("the schema lacks {}: run `active-vlm migrate`", pending.join(", ")))
        }
        None => {
            let config = EmbeddedConfig {
                state_dir: settings.state_dir.clone(),
                bin_dir: settings.database.bin_dir.clone(),
            };
            embedded::examine(&config).map_err(|e| e.to_string())
        }
    }
}

fn disk(state_dir: &Path) -> Result<String, String> {
    let existing = state_dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let stat = nix::sys::statvfs::statvfs(existing)
        .map_err(|e| format!("cannot look at {}: {e}", existing.display()))?;
    let free = stat.blocks_available() * stat.fragment_size();
    let text = format!("{:.1} GiB free under {}", free as f64 / (1u64 << 30) as f64, existing.display());
    if free < DISK_LOW {
        Err(format!("{text}: free some, or set state_dir to a larger disk"))
    } else {
        Ok(text)
    }
}
