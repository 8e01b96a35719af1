//! `Expect: 100-continue` and answers before the request's end, as curl sees them.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{Device, Server, Setup, text};

/// `/slow` waits and reads slowly; `/early-...` answers with that status and closes, `/keep-...` closes later;
/// nothing of the body was read then.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((tcp, _)) = listener.accept() {
            std::thread::spawn(move || serve(tcp));
        }
    });
    port
}

fn serve(mut tcp: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        tcp.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    assert!(!head.contains("expect:"), "{head}");
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = |status: &str, body: String| {
        format!(
            "HTTP/1.1 {status} Said\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    if let Some(status) = path.strip_prefix("/early-").or(path.strip_prefix("/keep-")) {
        tcp.write_all(answer(status, "early".into()).as_bytes())?;
        if path.starts_with("/keep-") {
            std::thread::sleep(Duration::from_secs(5));
        }
        return Ok(());
    }
    std::thread::sleep(Duration::from_millis(200));
    let length = head.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    let (length, mut read) = (length.unwrap_or(0), 0);
    let mut piece = vec![0; 64 * 1024];
    while read < length {
        read += match tcp.read(&mut piece)? {
            0 => return Ok(()),
            some => some,
        };
        std::thread::sleep(Duration::from_millis(2));
    }
    tcp.write_all(answer("200", format!("read {read}")).as_bytes())
}

/// What curl hears: whether it was told to go on, status, bytes that it sent, and the body.
fn upload(
    server: &Server,
    device: &Device,
    path: &str,
    file: &Path,
    more: &[&str],
) -> (bool, String) {
    let url = server.url(path);
    let file = file.to_str().unwrap();
    let begun = Instant::now();
    let output = device.curl(
        server,
        &[
            &[
                "--verbose",
                "--expect100-timeout",
                "15",
                "--write-out",
                "|%{http_code}|%{size_upload}",
            ],
            more,
            &["--upload-file", file, &url],
        ]
        .concat(),
    );
    let heard = text(&output.stderr);
    // Of a success curl sends the rest of the body, which nobody takes for ever.
    let may_break = path.ends_with("-200") && output.status.code() == Some(55);
    assert!(output.status.success() || may_break, "{path}: {heard}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{path}: {heard}");
    (
        heard.contains("< HTTP/1.1 100 Continue"),
        text(&output.stdout),
    )
}

#[test]
fn the_body_is_asked_for_when_it_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let (port, folder) = (upstream(), directory.path());
    let configuration = folder.join("keybound.toml");
    std::fs::write(
        &configuration,
        format!(
            "[[gateway.route]]\npath = \"/\"\nupstream = \"http://127.0.0.1:{port}\"\n\
             [[gateway.route]]\npath = \"/small\"\nupstream = \"http://127.0.0.1:{port}\"\nmax_body = \"1MiB\"\n\
             [[gateway.route]]\npath = \"/insiders\"\nupstream = \"http://127.0.0.1:{port}\"\ngroups = [\"insiders\"]\n"
        ),
    )
    .unwrap();
    let configuration = configuration.to_str().unwrap();
    let server = Server::start(
        Setup::default()
            .argument("--config")
            .argument(configuration),
    );
    let device = server.device("thermostat-7");
    let file = folder.join("body");
    std::fs::write(&file, vec![b'x'; 2 << 20]).unwrap();
    let upload = |path: &str, more: &[&str]| upload(&server, &device, path, &file, more);
    let expecting = ["--http1.1", "--header", "Expect: 100-continue"];

    let all = "read 2097152|200|2097152".to_owned();
    assert_eq!(upload("/slow", &expecting), (true, all.clone()));
    for version in ["--http1.1", "--http2"] {
        assert_eq!(
            upload("/slow", &[version, "--header", "Expect:"]),
            (false, all.clone())
        );
    }
    // A refusal comes instead, and nothing of the body is sent.
    for (path, code, status) in [
        ("/small", "body-too-large", 413),
        ("/insiders", "group-not-allowed", 403),
        ("/slow/../x", "path-refused", 400),
    ] {
        let (told, heard) = upload(path, &[&expecting[..], &["--path-as-is"]].concat());
        assert!(!told, "{path}");
        assert!(
            heard.contains(code) && heard.ends_with(&format!("|{status}|0")),
            "{path}: {heard}"
        );
    }
    // An answer comes before the body is over, whether the upstream closes or waits. Over HTTP/2 curl 7.88 takes the reset that
    // follows the answer for an error (RFC 9113, section 8.1, forbids that), so it is not asked.
    for path in ["/early-200", "/early-413", "/keep-200", "/keep-413"] {
        for version in ["--http1.1"; 5] {
            let (_, heard) = upload(path, &[version, "--header", "Expect:"]);
            let status = &path[path.len() - 3..];
            assert!(heard.contains(&format!("|{status}|")), "{path}: {heard}");
            if status == "413" {
                assert!(heard.starts_with("early|"), "{path}: {heard}");
            }
        }
    }
}
