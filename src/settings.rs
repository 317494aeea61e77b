//! What an operator may set: defaults, then files, then the environment.
//!
//! The defaults are `deploy/config/default.toml`, which is part of the binary and the reference of every key. Each
//! consumer gets its own struct. Invariant: a key that nobody reads is an error, and so is a value out of its
//! range, before anything starts; [`Settings::render`] never shows a secret.
//! Deliberately absent: policies of pools, which live in the database and change while the service runs.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use config::{Config, Environment, File, FileFormat};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const DEFAULTS: &str = include_str!("../deploy/config/default.toml");
const ENVIRONMENT_PREFIX: &str = "ACTIVE_VLM";
/// Where `worker.crash_at` can have the process die, in the order of a round.
const CRASH_POINTS: [&str; 9] = [
    "scoring",
    "views",
    "chains",
    "before_plan",
    "after_plan",
    "training",
    "reasoning",
    "before_commit",
    "after_commit",
];
/// Bytes of an answer beside the one image that it must be able to carry.
const ANSWER_BYTES: usize = 65_536;

/// The effective settings.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Folder of the private Postgres, local blobs and locks.
    pub state_dir: PathBuf,
    /// Time from the signal to the end of the process.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
    /// The API.
    pub grpc: Grpc,
    /// Metrics and health.
    pub http: Http,
    /// Where the truth is kept.
    pub database: Database,
    /// Where images and weights are kept.
    pub blobs: Blobs,
    /// What is accepted as an image.
    pub images: Images,
    /// The thread that owns the model.
    pub engine: Engine,
    /// Background jobs.
    pub worker: Worker,
    /// Bounds of requests.
    pub limits: Limits,
    /// What is logged and how.
    pub log: Log,
}

/// Settings of the API.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Largest message taken or sent.
    pub max_message_bytes: usize,
    /// Calls in flight over all connections, streams not counted.
    pub max_concurrent_requests: usize,
    /// Streams (AddSamples, WatchRounds) in flight over all connections.
    pub max_concurrent_streams: usize,
    /// A request is cancelled after this long; streams are not.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Origins (`https://host:port`) whose pages may call from a browser; pages of this machine always may. In the
    /// environment parted by commas.
    #[serde(deserialize_with = "list")]
    pub web_origins: Vec<String>,
    /// Certificate and key; plain text without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// A server certificate.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the certificate chain.
    pub cert: PathBuf,
    /// PEM file of the private key.
    pub key: PathBuf,
}

/// Settings of the HTTP port.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// Settings of the database.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// The server to use; without it a private cluster is run under the state folder.
    #[serde(serialize_with = "hidden")]
    pub url: Option<SecretString>,
    /// Folder of `initdb` and `postgres` for the private cluster; searched for when unset.
    pub bin_dir: Option<PathBuf>,
    /// Connections of the pool.
    pub max_connections: u32,
    /// How long a request waits for a connection.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
}

/// Settings of the blob store.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Blobs {
    /// `s3://bucket/prefix`, `gs://bucket/prefix` or `file:///folder`; a folder under the state folder when unset.
    pub url: Option<String>,
}

/// Bounds of an image.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// Largest file.
    pub max_bytes: usize,
    /// Most pixels, width times height.
    pub max_pixels: u64,
}

/// Settings of the engine.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// `cpu`, `cuda` or `cuda:N`: it trains, and scores where there is no other.
    pub device: String,
    /// Further devices, which score and predict beside the first.
    #[serde(default)]
    pub more_devices: Vec<String>,
    /// Hugging Face folder of the base model.
    pub model_dir: PathBuf,
    /// What weights are held as: `auto`, `float32`, `bfloat16` or `float16`.
    pub dtype: String,
    /// Whether training computes layers twice instead of keeping them.
    pub gradient_checkpointing: bool,
    /// Linear layers of the decoder that adapters are put beside, by the end of their names.
    pub lora_targets: Vec<String>,
    /// Threads of libtorch; 0 for as many as there are cores.
    pub threads: usize,
    /// Commands that may wait.
    pub queue: usize,
    /// Tokens of one forward pass, padding included.
    pub token_budget: usize,
    /// Bytes that the process may hold, beyond which passes are made smaller; 0 derives it from the machine.
    pub memory_limit: u64,
    /// Versions kept in memory.
    pub resident_versions: usize,
}

/// Settings of the background worker.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// Pause between looks for work when none was announced.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    /// Pause between signs of life of a running job.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Age of the last sign of life after which a job is taken over.
    #[serde(with = "humantime_serde")]
    pub dead_after: Duration,
    /// Time without any progress after which a job whose worker lives is told of; a slow one by its own pace later.
    #[serde(with = "humantime_serde")]
    pub stall_after: Duration,
    /// Attempts of a job before it has failed for good.
    pub max_attempts: u32,
    /// Samples scored per transaction.
    pub shard_size: usize,
    /// For tests: the step of the round at which the process kills itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crash_at: Option<String>,
}

/// Bounds of requests.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Rows of a page when the request names none.
    pub page_size_default: u32,
    /// Rows of a page at most.
    pub page_size_max: u32,
    /// Queries of one batch.
    pub batch_size_max: u32,
    /// Shortest lease.
    #[serde(with = "humantime_serde")]
    pub lease_ttl_min: Duration,
    /// Longest lease.
    #[serde(with = "humantime_serde")]
    pub lease_ttl_max: Duration,
    /// Longest wait for a plan in `NextBatch`.
    #[serde(with = "humantime_serde")]
    pub max_wait_max: Duration,
    /// Labels of one `SubmitLabels`.
    pub labels_per_call_max: usize,
    /// Images of one sample.
    pub images_per_sample_max: usize,
    /// Answers to choose from, of a sample or a pool.
    pub choices_max: usize,
    /// Bytes of a name, an id or a group.
    pub name_bytes_max: usize,
    /// Bytes of a question.
    pub question_bytes_max: usize,
    /// Bytes of an answer.
    pub answer_bytes_max: usize,
    /// Steps of one reasoning.
    pub reasoning_steps_max: usize,
    /// Bytes of one reasoning, all steps together.
    pub reasoning_bytes_max: usize,
    /// Evidence regions of one label.
    pub regions_max: usize,
    /// Bytes of a sample's metadata.
    pub metadata_bytes_max: usize,
}

/// Settings of the log.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file is missing or not TOML, a key is unknown, or a value has the wrong type.
    #[error(
        "settings: {0}; `active-vlm config show` lists every key (environment: {ENVIRONMENT_PREFIX}__SECTION__KEY)"
    )]
    Read(#[from] config::ConfigError),
    /// Values out of their ranges, all of them.
    #[error("settings: {}", .0.join("; "))]
    OutOfRange(Vec<String>),
}

impl Settings {
    /// Reads the defaults, then `files` in their order, then this process's environment.
    pub fn load(files: &[PathBuf]) -> Result<Self, SettingsError> {
        Self::from_sources(files, Environment::with_prefix(ENVIRONMENT_PREFIX))
    }

    /// The same with a chosen environment, for tests and tools: `ACTIVE_VLM__A__B` to value.
    pub fn load_with(files: &[PathBuf], variables: HashMap<String, String>) -> Result<Self, SettingsError> {
        let environment = Environment::with_prefix(ENVIRONMENT_PREFIX).source(Some(variables));
        Self::from_sources(files, environment)
    }

    fn from_sources(files: &[PathBuf], environment: Environment) -> Result<Self, SettingsError> {
        let mut sources = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        for file in files {
            sources = sources.add_source(File::from(file.as_path()).format(FileFormat::Toml));
        }
        let environment = environment.prefix_separator("__").separator("__");
        let settings: Self = sources.add_source(environment).build()?.try_deserialize()?;
        let wrong = settings.out_of_range();
        if wrong.is_empty() { Ok(settings) } else { Err(SettingsError::OutOfRange(wrong)) }
    }

    /// The folder of local blobs.
    pub fn blob_dir(&self) -> PathBuf {
        self.state_dir.join("blobs")
    }

    /// The settings as TOML, secrets hidden and unset keys as comments.
    pub fn render(&self) -> String {
        // Unwrap safety: plain structs with string keys always serialise.
        #[allow(clippy::unwrap_used)]
        let tree = serde_json::to_value(self).unwrap();
        let mut text = String::new();
        render_table(&mut text, "", &tree);
        text
    }

    /// Everything that is out of its range, each with its key.
    fn out_of_range(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut check = |holds: bool, message: &str| {
            if !holds {
                wrong.push(message.to_owned());
            }
        };
        let known = |device: &str| {
            let numbered = device.strip_prefix("cuda:").is_some_and(|n| n.parse::<u16>().is_ok());
            matches!(device, "cpu" | "cuda") || numbered
        };
        check(known(&self.engine.device), "engine.device must be cpu, cuda or cuda:N");
        let more = &self.engine.more_devices;
        check(
            more.iter().all(|device| known(device)),
            "engine.more_devices must each be cpu, cuda or cuda:N",
        );
        let gpus = || std::iter::once(&self.engine.device).chain(more).filter(|device| *device != "cpu");
        let twice = gpus().enumerate().any(|(at, device)| gpus().take(at).any(|other| other == device));
        check(!twice, "engine.device and engine.more_devices must name each GPU once");
        check(!self.state_dir.as_os_str().is_empty(), "state_dir must not be empty");
        check(!self.shutdown_grace.is_zero(), "shutdown_grace must be above 0s");
        check(self.grpc.max_message_bytes >= 65_536, "grpc.max_message_bytes must be at least 65536");
        check(self.grpc.max_concurrent_requests > 0, "grpc.max_concurrent_requests must be at least 1");
        check(self.grpc.max_concurrent_streams > 0, "grpc.max_concurrent_streams must be at least 1");
        check(!self.grpc.request_timeout.is_zero(), "grpc.request_timeout must be above 0s");
        check(self.database.max_connections >= 2, "database.max_connections must be at least 2");
        check(!self.database.connect_timeout.is_zero(), "database.connect_timeout must be above 0s");
        check(self.images.max_bytes > 0, "images.max_bytes must be at least 1");
        check(
            self.images.max_bytes.saturating_add(ANSWER_BYTES) <= self.grpc.max_message_bytes,
            "images.max_bytes must be at least 65536 below grpc.max_message_bytes, or a stored image cannot be sent",
        );
        check(self.images.max_pixels > 0, "images.max_pixels must be at least 1");
        let dtype = self.engine.dtype.as_str();
        check(
            matches!(dtype, "auto" | "float32" | "bfloat16" | "float16"),
            "engine.dtype must be auto, float32, bfloat16 or float16",
        );
        check(self.engine.queue > 0, "engine.queue must be at least 1");
        check(self.engine.token_budget > 0, "engine.token_budget must be at least 1");
        check(self.engine.resident_versions > 0, "engine.resident_versions must be at least 1");
        check(!self.worker.poll_interval.is_zero(), "worker.poll_interval must be above 0s");
        check(!self.worker.heartbeat.is_zero(), "worker.heartbeat must be above 0s");
        check(
            self.worker.dead_after >= self.worker.heartbeat * 2,
            "worker.dead_after must be at least twice worker.heartbeat, or live jobs are taken over",
        );
        check(
            self.worker.stall_after >= self.worker.heartbeat,
            "worker.stall_after must be at least worker.heartbeat, by which progress is looked at",
        );
        check(self.worker.max_attempts > 0, "worker.max_attempts must be at least 1");
        check(self.worker.shard_size > 0, "worker.shard_size must be at least 1");
        let crash_at = self.worker.crash_at.as_deref();
        check(
            crash_at.is_none_or(|step| CRASH_POINTS.contains(&step)),
            &format!("worker.crash_at must be one of {}", CRASH_POINTS.join(", ")),
        );
        let limits = &self.limits;
        check(
            (1..=limits.page_size_max).contains(&limits.page_size_default),
            "limits.page_size_default must be from 1 to limits.page_size_max",
        );
        check(limits.batch_size_max > 0, "limits.batch_size_max must be at least 1");
        check(
            !limits.lease_ttl_min.is_zero() && limits.lease_ttl_min <= limits.lease_ttl_max,
            "limits.lease_ttl_min must be above 0s and at most limits.lease_ttl_max",
        );
        check(
            limits.max_wait_max < self.grpc.request_timeout,
            "limits.max_wait_max must be below grpc.request_timeout, or waiting for a plan ends in DEADLINE_EXCEEDED",
        );
        check(limits.images_per_sample_max > 0, "limits.images_per_sample_max must be at least 1");
        wrong
    }
}

/// A list as files have it, or as the environment does: one text, parted by commas.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::List(list) => list,
        Written::Text(text) => {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
        }
    })
}

/// `Some` as a fixed text, so that a secret is seen to be set and not seen.
fn hidden<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|_| "[hidden]").serialize(serializer)
}

/// Writes `table` as TOML: plain keys first, then one section per table.
fn render_table(text: &mut String, path: &str, table: &serde_json::Value) {
    let Some(entries) = table.as_object() else { return };
    for (key, value) in entries.iter().filter(|(_, value)| !value.is_object()) {
        // A JSON string, number or boolean is a TOML one. Writing to a String cannot fail.
        let _ = match value {
            serde_json::Value::Null => writeln!(text, "# {key} is not set"),
            value => writeln!(text, "{key} = {value}"),
        };
    }
    for (key, value) in entries.iter().filter(|(_, value)| value.is_object()) {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let _ = writeln!(text, "\n[{path}]");
        render_table(text, &path, value);
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
