//! The binary: exit codes, messages, the whole life of a served process.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_integration-service"));
    command.env_clear().current_dir(folder);
    command
}

pub(crate) fn run(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(folder).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

pub(crate) fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("config")).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join("config").join(name), text).unwrap();
    }
    folder
}

#[test]
fn config_check_tells_sound_from_faulty() {
    let sound = folder(&[("rate_limits.yaml", "users: {}\n")]);
    let (code, out, _) = run(sound.path(), &["config", "check"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("The configuration is sound."), "{out}");
    let faulty = folder(&[("rate_limits.yaml", "user: {}\n"), ("integration_service.yaml", "server: {port: x}\n")]);
    let (code, out, error) = run(faulty.path(), &["config", "check", "--dir", "config"]);
    assert_eq!(code, 1);
    assert!(out.contains("config/rate_limits.yaml:1:1: /user: unknown key;"), "{out}");
    assert!(out.contains("config/integration_service.yaml:1:10: /server/port: expected a whole number"), "{out}");
    assert!(error.contains("2 faults"), "{error}");
    let (code, _, error) = run(faulty.path(), &["serve"]);
    assert_eq!(code, 1);
    assert!(error.contains("/server/port"), "{error}");
}

#[test]
fn wrong_use_is_told_from_failure() {
    let folder = folder(&[]);
    assert_eq!(run(folder.path(), &["no-such-command"]).0, 2);
    assert_eq!(run(folder.path(), &["call", "x"]).0, 2);
    assert_eq!(run(folder.path(), &["--help"]).0, 0);
    let (code, _, error) = run(folder.path(), &["health", "--url", "http://127.0.0.1:1"]);
    assert_eq!(code, 1);
    assert!(error.contains("http://127.0.0.1:1 cannot be asked"), "{error}");
    let (code, _, error) = run(folder.path(), &["definitions", "list"]);
    assert_eq!(code, 1);
    assert!(error.contains("no key"), "{error}");
}

#[test]
fn generated_keys_are_new_each_time() {
    let folder = folder(&[]);
    let generate = |arguments: &[&str]| run(folder.path(), arguments).1.trim().to_owned();
    let (first, second) = (generate(&["keys", "generate"]), generate(&["keys", "generate"]));
    assert!(first.starts_with("k1:") && first != second);
    assert!(generate(&["keys", "generate", "--admin"]).starts_with("isk_"));
}

#[test]
fn definitions_are_validated_offline() {
    let folder = folder(&[(
        "pets.yaml",
        "id: pets\nname: Pets\nversion: 1.0.0\ntype: http\nauthType: none\nmethods:\n  - name: list\n    timeoutMs: 0\n",
    )]);
    let (code, out, _) = run(folder.path(), &["definitions", "validate", "config/pets.yaml"]);
    assert_eq!(code, 1);
    assert_eq!(out.trim(), "config/pets.yaml:8:5: /methods/0/timeoutMs: expected 1 to 600000");
}

pub(crate) struct Running {
    child: Child,
    pub(crate) url: String,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    /// Starts on a free port and waits for the line that names it.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_with(folder, &["serve", "--port", "0"])
    }

    pub(crate) fn start_with(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = command(folder).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = loop {
            let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            if line["message"] == "serving" {
                assert_eq!(
                    (line["level"].as_str(), line["timestamp"].as_str().map(str::len)),
                    (Some("INFO"), Some(24))
                );
                break line["url"].as_str().unwrap().to_owned();
            }
        };
        Self { child, url, lines }
    }

    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits until a line of the log holds `text`.
    pub(crate) fn wait_for_line(&mut self, text: &str) {
        assert!(self.lines.by_ref().any(|line| line.unwrap().contains(text)), "{text}");
    }

    /// Waits for the end: the exit code, and what went to standard error.
    pub(crate) fn end(mut self) -> (i32, String) {
        for line in self.lines.by_ref() {
            serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap();
        }
        let mut error = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        (self.child.wait().unwrap().code().unwrap(), error)
    }
}

#[test]
fn a_served_process_makes_its_key_answers_and_stops_in_order() {
    let folder = folder(&[]);
    let running = Running::start(folder.path());
    let (code, out, _) = run(folder.path(), &["health", "--url", &running.url]);
    assert_eq!(code, 0, "{out}");
    let key_file = folder.path().join("data/admin.key");
    let key = std::fs::read_to_string(&key_file).unwrap();
    assert_eq!(key_file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    running.signal("-TERM");
    let (code, error) = running.end();
    assert_eq!(code, 0);
    assert!(error.contains(key.trim()), "the new key is shown");
    let again = Running::start(folder.path());
    again.signal("-INT");
    let (code, error) = again.end();
    assert_eq!(code, 0);
    assert!(!error.contains("isk_"), "a key is shown once: {error}");
}

#[test]
fn a_hangup_reloads_the_rate_limits_and_a_wrong_file_stops_nothing() {
    let folder = folder(&[("rate_limits.yaml", "users: {}\n")]);
    let mut running = Running::start(folder.path());
    let file = folder.path().join("config/rate_limits.yaml");
    for (text, told) in [
        (
            "users: {default: {requestsPerMinute: 0}}\n",
            "rate limits not reloaded, the old ones stay: config/rate_limits.yaml:1:",
        ),
        ("users: {default: {requestsPerMinute: 10}}\n", "rate limits reloaded"),
    ] {
        std::fs::write(&file, text).unwrap();
        running.signal("-HUP");
        running.wait_for_line(told);
    }
    running.signal("-TERM");
    assert_eq!(running.end().0, 0);
}
