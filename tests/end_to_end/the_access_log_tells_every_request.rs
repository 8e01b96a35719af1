//! `[gateway.access_log]`: one whole line for each request, whatever the device sends and whatever becomes of the disk.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::upstream::Upstream;
use crate::harness::{Device, Server, Setup, eventually, succeed, text};

const LIMIT: Duration = Duration::from_secs(5);

struct Scene {
    server: Server,
    device: Device,
    upstream: Upstream,
}

impl Scene {
    /// A server whose access log is `file`, written as `format` says.
    async fn start(file: &str, format: &str, setup: Setup) -> Self {
        let upstream = Upstream::start().await;
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("c.toml");
        fs::write(&config, Self::config(&upstream, file, format)).unwrap();
        let setup = setup
            .argument("--config")
            .argument(config.display().to_string());
        let server = Server::start_in(directory, setup);
        Self {
            device: server.device("thermostat-7"),
            server,
            upstream,
        }
    }

    fn config(upstream: &Upstream, file: &str, format: &str) -> String {
        format!(
            "[gateway]\n[gateway.access_log]\nfile = '{file}'\nformat = '{format}'\n[[gateway.route]]\npath = '/'\nupstream = 'http://{}'\n",
            upstream.address
        )
    }

    fn rewrite(&self, config: &str) {
        fs::write(self.server.path("c.toml"), config).unwrap();
    }

    /// Sends a request; the head of its answer.
    fn ask(&self, path: &str, arguments: &[&str]) -> String {
        let url = self.server.url(path);
        let common = ["--include", "--path-as-is", "--globoff", &url];
        let output = self
            .device
            .curl(&self.server, &[&common, arguments].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    fn health(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.server.health());
        succeed(Command::new("curl").args(["--silent", &url]))
    }

    fn metric(&self, name: &str) -> u64 {
        let metrics = self.health("/metrics");
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn alarms(&self) -> String {
        let readiness: Value = serde_json::from_str(&self.health("/readyz")).unwrap();
        assert_eq!(readiness["ready"], true, "{readiness}");
        readiness["reasons"].to_string()
    }
}

/// The lines of a file, once there are so many.
fn lines(file: &Path, count: usize) -> Vec<String> {
    let read = || fs::read(file).unwrap_or_default();
    eventually(LIMIT, "lines", || {
        read().iter().filter(|byte| **byte == b'\n').count() >= count
    });
    let content = String::from_utf8(read()).unwrap();
    assert!(content.ends_with('\n'));
    content.lines().map(str::to_owned).collect()
}

/// What another reader of JSON than ours makes of a line.
fn python_reads(line: &str) -> Value {
    let program = "import json, sys; print(json.dumps(json.loads(sys.argv[1])))";
    let printed = succeed(Command::new("python3").args(["-c", program, line]));
    serde_json::from_str(&printed).unwrap()
}

/// Headers that would be lines, fields or commands for a terminal, if they were written as they are.
fn hostile_headers(scene: &Scene) -> PathBuf {
    let file = scene.server.path("headers");
    let mut content =
        b"User-Agent: x\", \"device\": \"admin\\\" \\x22 \xff\xc2\x9b31m\t{}\n".to_vec();
    content.extend_from_slice(b"Referer: \" 200 1 \"-\" \xf0\x9f\x98\x80\n");
    fs::write(&file, content).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn in_json() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("access.log");
    let scene = Scene::start(file.to_str().unwrap(), "json", Setup::default()).await;
    let answer = scene.ask("/a/b?token=secret", &["--http2", "--data", "hello\r\n\r\n"]);
    let headers = format!("@{}", hostile_headers(&scene).display());
    scene.ask(
        "/\"},{\"device\":\"admin",
        &["--http1.1", "--header", &headers],
    );
    assert!(scene.ask("/a/../b", &[]).contains(" 400"));
    let lines = lines(&file, 3);
    assert_eq!(lines.len(), 3, "{lines:?}");
    let first = python_reads(&lines[0]);
    for (field, value) in [
        ("device", "thermostat-7"),
        ("method", "POST"),
        ("path", "/a/b"),
        ("route", "/"),
        ("http", "HTTP/2.0"),
        ("tls", "TLSv1.3"),
        ("server_name", "localhost"),
        ("outcome", "forwarded"),
        ("end", "complete"),
        ("upstream", &format!("http://{}", scene.upstream.address)),
    ] {
        assert_eq!(first[field], value, "{field} in {first}");
    }
    let id = first["request_id"].as_str().unwrap();
    assert!(
        answer.contains(&format!("x-request-id: {id}\r\n")),
        "{answer}"
    );
    assert_eq!((&first["status"], &first["sent"]), (&200.into(), &3.into()));
    assert!(first["duration_ms"].as_f64() >= first["upstream_ms"].as_f64());
    assert!(!lines.concat().contains("secret"));

    let second = python_reads(&lines[1]);
    assert_eq!(second["device"], "thermostat-7");
    assert_eq!(second["path"], "/\"},{\"device\":\"admin");
    assert_eq!(
        second["user_agent"],
        "x\", \"device\": \"admin\\\" \\x22 \u{fffd}\u{9b}31m\t{}"
    );
    assert!(
        lines[1].bytes().all(|byte| matches!(byte, b' '..=b'~')),
        "{}",
        lines[1]
    );

    let third = python_reads(&lines[2]);
    assert_eq!(
        (&third["outcome"], &third["status"]),
        (&"path-refused".into(), &400.into())
    );
    assert_eq!(third["upstream"], Value::Null);
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file).unwrap());
    assert_eq!(mode & 0o777, 0o640);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_combined_format_and_under_another_name_after_a_reload() {
    let place = tempfile::tempdir().unwrap();
    let (file, moved) = (
        place.path().join("access.log"),
        place.path().join("access.log.1"),
    );
    // A process before left half a line.
    fs::write(&file, "half").unwrap();
    let scene = Scene::start(file.to_str().unwrap(), "combined", Setup::default()).await;
    let headers = format!("@{}", hostile_headers(&scene).display());
    let answer = scene.ask("/\"a", &["--http1.1", "--header", &headers]);
    let id = answer.split("x-request-id: ").nth(1).unwrap();
    let id = id.split("\r\n").next().unwrap();
    let written = lines(&file, 2);
    assert_eq!(written[0], "half");
    // What nginx's documentation calls combined, and the id.
    let expected = format!(
        "127.0.0.1 - thermostat-7 [] \"GET /\\x22a HTTP/1.1\" 200 3 \"\\x22 200 1 \\x22-\\x22 \\xF0\\x9F\\x98\\x80\" \
         \"x\\x22, \\x22device\\x22: \\x22admin\\x5C\\x22 \\x5Cx22 \\xEF\\xBF\\xBD\\xC2\\x9B31m\\x09{{}}\" \"{id}\""
    );
    let (before, rest) = written[1].split_once('[').unwrap();
    let (_, after) = rest.split_once(']').unwrap();
    assert_eq!(format!("{before}[]{after}"), expected);

    // As logrotate does it; and where the configuration has a mistake, too.
    for (good, config) in [
        (
            true,
            Scene::config(&scene.upstream, file.to_str().unwrap(), "combined"),
        ),
        (false, "x".to_owned()),
    ] {
        fs::rename(&file, &moved).unwrap();
        scene.ask("/into-the-old-one", &[]);
        assert!(
            lines(&moved, 2)
                .last()
                .unwrap()
                .contains("/into-the-old-one")
        );
        scene.rewrite(&config);
        let output = scene.server.keybound(&["reload"]);
        assert_eq!(output.status.success(), good, "{}", text(&output.stdout));
        eventually(LIMIT, "another file", || file.exists());
        scene.ask("/into-the-new-one", &[]);
        assert_eq!(lines(&file, 1).len(), 1);
    }

    // Another format and place, nowhere, and one that cannot be.
    let other = place.path().join("other.log");
    scene.rewrite(&Scene::config(
        &scene.upstream,
        other.to_str().unwrap(),
        "json",
    ));
    let told = scene.server.run(&["reload"]);
    assert!(
        told.contains(&format!("access log: {}, json", other.display())),
        "{told}"
    );
    scene.ask("/", &[]);
    python_reads(&lines(&other, 1)[0]);
    scene.rewrite(&Scene::config(&scene.upstream, "/nowhere/x", "json"));
    let output = scene.server.keybound(&["reload"]);
    let told = text(&[output.stdout, output.stderr].concat());
    assert!(
        told.contains("line 3: ") && told.contains("its directory is not there"),
        "{told}"
    );
    scene.ask("/", &[]);
    assert_eq!(lines(&other, 2).len(), 2);
    let none = Scene::config(&scene.upstream, "", "")
        .replace("[gateway.access_log]\nfile = ''\nformat = ''\n", "");
    scene.rewrite(&none);
    let told = scene.server.run(&["reload"]);
    assert!(told.contains("access log: none"), "{told}");
    scene.ask("/", &[]);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(lines(&other, 2).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_lines_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(place.path());
    let file = place.path().join("access.log");
    let scene = Scene::start(file.to_str().unwrap(), "json", Setup::default()).await;
    scene.ask("/", &[]);
    lines(&file, 1);
    // All the room that there is, but for half a line.
    let filler = place.path().join("filler");
    let mut filling = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&filler)
        .unwrap();
    while filling.write_all(&[0; 4096]).is_ok() {}
    eventually(LIMIT, "lines are lost", || {
        for _ in 0..10 {
            assert!(scene.ask("/", &[]).contains(" 200"));
        }
        scene.metric("keybound_access_log_lines_lost_total") > 0
    });
    let alarms = scene.alarms();
    assert!(alarms.contains("access log cannot be written"), "{alarms}");
    drop(filling);
    fs::remove_file(&filler).unwrap();
    let before = scene.metric("keybound_access_log_lines_written_total");
    eventually(LIMIT, "lines are written again", || {
        scene.ask("/", &[]);
        scene.metric("keybound_access_log_lines_written_total") > before
    });
    assert_eq!(scene.alarms(), "[]");
    // One line at most is broken, and nothing was added to it.
    let content = fs::read_to_string(&file).unwrap();
    let broken = content
        .lines()
        .filter(|line| serde_json::from_str::<Value>(line).is_err());
    assert!(broken.count() <= 1, "{content}");
    let last = content.lines().last().unwrap();
    assert_eq!(python_reads(last)["device"], "thermostat-7");
    drop(scene);
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_keeps_nobody_waiting() {
    let place = tempfile::tempdir().unwrap();
    let pipe = place.path().join("pipe");
    succeed(Command::new("mkfifo").arg(&pipe));
    let mut reader = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe)
        .unwrap();
    // All that a pipe takes.
    reader.write_all(&[b'\n'; 65_536]).unwrap();
    let script = format!("exec \"$@\" > '{}'", pipe.display());
    let setup = Setup::default().wrapper(&["bash", "-c", &script, "-"]);
    let scene = Scene::start("stdout", "json", setup).await;
    let started = Instant::now();
    for _ in 0..20 {
        assert!(scene.ask("/", &[]).contains(" 200"));
    }
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(scene.metric("keybound_access_log_lines_written_total"), 0);
    let started = Instant::now();
    scene.server.stop();
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// A file system in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Self {
        let mount = ["-t", "tmpfs", "-o", "size=64k", "tmpfs"];
        succeed(Command::new("mount").args(mount).arg(path));
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
