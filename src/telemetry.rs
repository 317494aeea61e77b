//! Logs and metrics of the process.
//!
//! Owns the one subscriber and the one recorder. Invariant: logs go to stderr, so that stdout stays what a command
//! was asked for; every histogram named `*_seconds` has the buckets below, so that dashboards can add instances.
//! Deliberately absent: what is logged and counted, which stands where it happens; labels per sample or annotator,
//! which would grow without bound.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::{Log, LogFormat};

/// Upper bounds of `*_seconds` histograms: from a lease (about 1 ms) to a training (minutes).
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

/// Why logs or metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("log.filter {filter:?}: {reason}; write it like info,active_vlm=debug")]
    Filter {
        /// The filter as it was set.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is a subscriber or a recorder already, which is not ours.
    #[error("telemetry is set up twice in one process: {0}")]
    Twice(String),
}

/// Installs the process's log subscriber.
pub fn init_logs(log: &Log) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&log.filter)
        .map_err(|error| TelemetryError::Filter { filter: log.filter.clone(), reason: error.to_string() })?;
    let registry = tracing_subscriber::registry().with(filter);
    // Colours are for people: in a file their codes would stand between the words.
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(std::io::stderr);
    let installed = match log.format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    installed.map_err(|error| TelemetryError::Twice(error.to_string()))
}

/// A handle on everything counted in this process.
#[derive(Clone, Debug)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the process's recorder on the first call; later calls give the same handle.
    pub fn install() -> Result<Self, TelemetryError> {
        static INSTALLED: OnceLock<Metrics> = OnceLock::new();
        static INSTALLING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        // A poisoned lock guards nothing but the order of calls.
        let _one_at_a_time = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(metrics) = INSTALLED.get() {
            return Ok(metrics.clone());
        }
        let recorder = recorder();
        let metrics = Self(recorder.handle());
        metrics::set_global_recorder(recorder).map_err(|error| TelemetryError::Twice(error.to_string()))?;
        Ok(INSTALLED.get_or_init(|| metrics).clone())
    }

    /// The metrics in the text format of Prometheus.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds recorded values into their histograms from time to time, for ever: without it, and without anybody
    /// asking for the metrics, they would pile up.
    pub async fn upkeep(self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            ticks.tick().await;
            self.0.run_upkeep();
        }
    }
}

fn recorder() -> metrics_exporter_prometheus::PrometheusRecorder {
    // Unwrap safety: the only error is an empty list of buckets.
    #[allow(clippy::unwrap_used)]
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .unwrap();
    builder.build_recorder()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_put_into_buckets() {
        let recorder = recorder();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("next_batch_seconds").record(0.003);
            metrics::counter!("labels_total", "arm" => "active").increment(2);
        });
        let text = Metrics(recorder.handle()).render();
        assert!(text.contains("next_batch_seconds_bucket{le=\"0.0025\"} 0"), "{text}");
        assert!(text.contains("next_batch_seconds_bucket{le=\"0.005\"} 1"), "{text}");
        assert!(text.contains("labels_total{arm=\"active\"} 2"), "{text}");
    }

    #[test]
    fn installing_twice_gives_the_same_metrics() {
        let (first, second) = (Metrics::install().expect("a first"), Metrics::install().expect("a second"));
        metrics::counter!("installed_total").increment(1);
        assert!(first.render().contains("installed_total") && second.render().contains("installed_total"));
    }

    #[test]
    fn a_filter_that_does_not_parse_is_refused() {
        let log = Log { format: LogFormat::Text, filter: "active_vlm=loudly".to_owned() };
        let message = init_logs(&log).expect_err("a refusal").to_string();
        assert!(message.contains("active_vlm=loudly"), "{message}");
    }
}
