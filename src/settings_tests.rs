//! Precedence, refusals and redaction of settings.

use super::*;
use std::path::Path;

use secrecy::ExposeSecret;

fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temp folder");
    let path = folder.path().join("settings.toml");
    std::fs::write(&path, content).expect("a writable temp folder");
    (folder, path)
}

fn variables(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn refusal(files: &[PathBuf], pairs: &[(&str, &str)]) -> String {
    Settings::load_with(files, variables(pairs)).expect_err("a refusal").to_string()
}

#[test]
fn the_defaults_are_valid() {
    let settings = Settings::load_with(&[], HashMap::new()).expect("valid defaults");
    assert_eq!(settings.grpc.listen.to_string(), "127.0.0.1:50051");
    assert_eq!(settings.shutdown_grace, Duration::from_secs(30));
    assert!(settings.database.url.is_none() && settings.grpc.tls.is_none());
    assert_eq!(settings.blob_dir(), Path::new("state/blobs"));
}

#[test]
fn the_environment_beats_files_and_a_later_file_an_earlier_one() {
    let (_a, first) =
        file("[grpc]\nlisten = \"127.0.0.1:1\"\nrequest_timeout = \"70s\"\n[worker]\nmax_attempts = 7");
    let (_b, second) = file("[grpc]\nlisten = \"127.0.0.1:2\"\n[engine]\nthreads = 2");
    let environment = variables(&[
        ("ACTIVE_VLM__ENGINE__THREADS", "3"),
        ("ACTIVE_VLM__GRPC__TLS__CERT", "c.pem"),
        ("ACTIVE_VLM__GRPC__TLS__KEY", "k.pem"),
        ("ACTIVE_VLM__LOG__FORMAT", "json"),
        ("ACTIVE_VLM_UNRELATED", "x"),
    ]);
    let settings = Settings::load_with(&[first, second], environment).expect("valid settings");
    assert_eq!(settings.grpc.listen.port(), 2);
    assert_eq!(settings.grpc.request_timeout, Duration::from_secs(70));
    assert_eq!(settings.worker.max_attempts, 7);
    assert_eq!(settings.engine.threads, 3);
    assert_eq!(settings.log.format, LogFormat::Json);
    assert_eq!(settings.grpc.tls.expect("both halves are set").key, Path::new("k.pem"));
}

#[test]
fn an_unknown_key_is_an_error_that_names_it_and_the_known_ones() {
    let (_folder, path) = file("[grpc]\nlissen = \"127.0.0.1:1\"");
    let message = refusal(&[path], &[]);
    assert!(message.contains("lissen") && message.contains("`listen`"), "{message}");
    let message = refusal(&[], &[("ACTIVE_VLM__ENGIN__THREADS", "1")]);
    assert!(message.contains("engin") && message.contains("`engine`"), "{message}");
}

#[test]
fn wrong_types_missing_files_and_values_out_of_range_are_errors() {
    let message = refusal(&[], &[("ACTIVE_VLM__GRPC__LISTEN", "everywhere")]);
    assert!(message.contains("grpc.listen"), "{message}");
    let message = refusal(&[PathBuf::from("no-such.toml")], &[]);
    assert!(message.contains("no-such.toml"), "{message}");
    let message =
        refusal(&[], &[("ACTIVE_VLM__ENGINE__DEVICE", "tpu"), ("ACTIVE_VLM__WORKER__DEAD_AFTER", "1s")]);
    assert!(message.contains("engine.device") && message.contains("worker.dead_after"), "{message}");
}

#[test]
fn settings_that_do_not_fit_each_other_are_errors() {
    let message = refusal(
        &[],
        &[("ACTIVE_VLM__IMAGES__MAX_BYTES", "8388608"), ("ACTIVE_VLM__LIMITS__MAX_WAIT_MAX", "30s")],
    );
    assert!(message.contains("images.max_bytes") && message.contains("limits.max_wait_max"), "{message}");
}

#[test]
fn a_list_can_be_set_by_the_environment_and_texts_stay_as_they_are() {
    let set = |value: &str| {
        let pairs = [("ACTIVE_VLM__GRPC__WEB_ORIGINS", value), ("ACTIVE_VLM__STATE_DIR", "007")];
        let settings = Settings::load_with(&[], variables(&pairs)).expect("valid settings");
        assert_eq!(settings.state_dir, Path::new("007"));
        settings.grpc.web_origins
    };
    assert_eq!(
        set("https://a.example, https://b.example:8443"),
        ["https://a.example", "https://b.example:8443"]
    );
    assert!(set("").is_empty());
    let (_folder, path) = file("[grpc]\nweb_origins = [\"https://a.example\"]");
    let settings = Settings::load_with(&[path], HashMap::new()).expect("valid settings");
    assert_eq!(settings.grpc.web_origins, ["https://a.example"]);
}

#[test]
fn what_is_rendered_hides_secrets_and_is_read_back() {
    let url = "postgres://me:hunter2@db/x";
    let environment = variables(&[("ACTIVE_VLM__DATABASE__URL", url)]);
    let settings = Settings::load_with(&[], environment).expect("valid settings");
    let secret = settings.database.url.as_ref().expect("a url is set");
    assert_eq!(secret.expose_secret(), url);
    let text = settings.render();
    assert!(text.contains("url = \"[hidden]\"") && !text.contains("hunter2"), "{text}");
    assert!(!format!("{settings:?}").contains("hunter2"));
    let (_folder, path) = file(&text);
    let again = Settings::load_with(&[path], HashMap::new()).expect("rendered settings are valid");
    assert_eq!(again.render(), text);
}
