//! A Prometheus server, and promtool.

use std::{
    fs,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{Client, Process, eventually, free_port, run};

/// A Prometheus server for a test.
pub struct Prometheus {
    client: Client,
    _process: Process,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    /// Starts a server that scrapes these addresses (`host:port`) ten times a second, as the job `mayfly`.
    pub fn scraping(targets: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("prometheus.yml");
        let scraped = format!(
            "scrape_configs:\n- job_name: mayfly\n  scrape_interval: 100ms\n  scrape_timeout: 100ms\n  \
             static_configs:\n  - targets: {targets:?}\n"
        );
        fs::write(&config, scraped).unwrap();
        let port = free_port();
        let process = Process::spawn(
            Command::new("prometheus")
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        let client = Client::new(&format!("http://127.0.0.1:{port}"));
        let ready = || client.get("/-/ready").try_send().is_ok_and(|answer| answer.status == 200).then_some(());
        eventually("prometheus is ready", ready);
        Self { client, _process: process, _directory: directory }
    }

    /// Returns the result of a query: label sets with values.
    pub fn query(&self, query: &str) -> Vec<Value> {
        let encoded = query.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02X}"));
        let answer = self.client.get(&format!("/api/v1/query?query={encoded}")).send().json();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

/// Runs promtool, and panics with its output if promtool fails.
pub fn promtool(arguments: &[&str], input: &str) {
    let output = run(Command::new("promtool").args(arguments), input);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}
