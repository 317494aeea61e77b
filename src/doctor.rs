//! `active-vlm doctor`: checks what the service needs, one line each, and says the cure for what is wrong.

use crate::{
    domain::JobKind,
    engine,
    settings::Settings,
    store::{
        Concern, Store,
        embedded::{self, EmbeddedConfig},
    },
};
use std::{path::Path, process::ExitCode, time::Duration};

/// Free disk below which the doctor warns, bytes.
const DISK_LOW: u64 = 2 << 30;

/// How long a job that was given up is spoken of.
const JOBS_BACK: Duration = Duration::from_secs(24 * 60 * 60);
/// Jobs named at most.
const JOBS_NAMED: i64 = 5;

/// What one check found.
struct Finding {
    what: &'static str,
    result: Result<String, String>,
}

/// Runs every check and prints what it found; fails when any check failed.
pub async fn run(settings: &Settings) -> ExitCode {
    let (postgres, store) = postgres(settings).await;
    let mut findings = vec![
        Finding { what: "libtorch", result: libtorch() },
        Finding { what: "model", result: model(settings) },
        Finding { what: "device", result: device(settings) },
        Finding { what: "postgres", result: postgres },
        Finding { what: "disk", result: disk(&settings.state_dir) },
    ];
    let asked = store.is_some();
    if let Some(store) = store {
        findings.push(Finding { what: "jobs", result: jobs(&store).await });
    }
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
    if !asked {
        println!(
            "      jobs      not looked at, for want of a database to ask: ListTrainings and the worker's log tell"
        );
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

/// What is to be said of the database, and a way to ask it more where it answers and is up to date.
async fn postgres(settings: &Settings) -> (Result<String, String>, Option<Store>) {
    if settings.database.url.is_none() {
        let config = EmbeddedConfig {
            state_dir: settings.state_dir.clone(),
            bin_dir: settings.database.bin_dir.clone(),
        };
        return (embedded::examine(&config).map_err(|e| e.to_string()), None);
    }
    match current(settings).await {
        Ok(store) => {
            (Ok("the server at database.url answers, its schema is up to date".to_owned()), Some(store))
        }
        Err(text) => (Err(text), None),
    }
}

async fn current(settings: &Settings) -> Result<Store, String> {
    let store = crate::app::connect(settings).await.map_err(|e| {
        format!("{e:#}: check database.url, or leave it unset for a private server under state_dir")
    })?;
    let pending = store.pending_migrations().await.map_err(|e| e.to_string())?;
    if pending.is_empty() {
        return Ok(store);
    }
    Err(format!("the schema lacks {}: run `active-vlm migrate`", pending.join(", ")))
}

async fn jobs(store: &Store) -> Result<String, String> {
    let found = store.concerns(chrono::Utc::now(), JOBS_BACK, JOBS_NAMED).await.map_err(|e| e.to_string())?;
    if found.is_empty() {
        return Ok("none stands still, none was given up in the last day".to_owned());
    }
    Err(found.iter().map(told).collect::<Vec<_>>().join("\n                "))
}

/// A job that somebody should look at, and how.
fn told(concern: &Concern) -> String {
    let Concern { job, kind, pool, stalled_at, error } = concern;
    let met = error.as_deref().unwrap_or("it met nothing");
    let name = format!("{kind:?} {job} of pool {pool}");
    match stalled_at {
        Some(since) => format!(
            "{name} has stood still since {}: {met}; see the worker's log, and restart the worker: it goes on where it was",
            since.format("%Y-%m-%d %H:%M:%S UTC")
        ),
        None => {
            let again = match kind {
                JobKind::DeletePool => "ask for DeletePool again",
                JobKind::Train => "StartTraining or the next labels try again",
                JobKind::Shadow => "the next training's shadow tries again",
                JobKind::Score | JobKind::Plan => "the next round tries again",
            };
            format!("{name} was given up: {met}; mend what it names, then {again}")
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
